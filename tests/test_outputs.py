"""What is written beside a picture: pictures on the way, and the animation: which, how large, how
long, and what failures cost."""

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MADE, arguments, picture
from PIL import Image

import nst
from nstlib import UserError, animation, colors, images, outputs, sources
from nstlib.outputs import Outputs

ENDINGS = [".gif", ".webp", ".mp4"]
LIGHT = {"network": "small", "style_layers": ["level1_conv1"], "style_loss": "gram"}
LIGHT |= {"colors": "style", "content_layers": ["level1_conv2"]}


def needs_ffmpeg(ending):
    if ending == ".mp4":
        pytest.importorskip("imageio_ffmpeg")


def frames_of(path):
    """The frames, uint8 [N, H, W, 3], and how long each is seen, in milliseconds."""
    if path.suffix == ".mp4":
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(path))
        about = next(reader)
        width, height = about["size"]
        frames = [np.frombuffer(x, np.uint8).reshape(height, width, 3) for x in reader]
        return np.stack(frames), [1000 / about["fps"]] * len(frames)
    frames, durations = [], []
    with Image.open(path) as im:
        assert im.info["loop"] == 0  # for ever
        for index in range(im.n_frames):
            im.seek(index)
            frames.append(np.asarray(im.convert("RGB")))
            durations.append(im.info["duration"])
    return np.stack(frames), durations


def resized(image, size):
    width, height = images.size_to_fit(*image.shape[1::-1], size)
    return images.to_uint8(images.resize(np.float32(image), height, width))


def smooth(height, width, *corners):
    """Colours that change gently from top left to bottom right: any codec keeps them."""
    across = np.add.outer(np.linspace(0, 0.5, height), np.linspace(0, 0.5, width))[..., None]
    first, last = np.float32(corners)
    return images.to_uint8(first + across * (last - first))


def fake_steps(plan, picture=lambda iteration, size: np.zeros((4, 6, 3), np.uint8), **changes):
    """The steps of a run, with (side, iterations) of each scale as in scales.plan_scales."""
    num_iter = sum(num_iter for _, num_iter in plan)
    settings = nst.Settings(**{"num_iter": num_iter, **changes})

    def step(side, iteration):
        def at(size=None, exact=False):
            return picture(iteration, size)

        tensor = SimpleNamespace(shape=(1, side, side, 3))
        return SimpleNamespace(
            iteration=iteration,
            losses={"total": 1.0},
            tensor=tensor,
            picture=at,
            settings=settings,
            sources=("a.jpg", "b.jpg"),
        )

    done = 0
    for side, num_iter in plan:
        for iteration in range(0 if not done else 1, num_iter + 1):
            yield step(side, done + iteration)
        done += num_iter


def finished(image):
    return nst.Result(image, {"total": [1.0]}, nst.Settings())


# What a step shows


@pytest.mark.parametrize("init", ["content", "noise"])
def test_picture_of_a_step_is_the_result_of_ending_there(init):
    """At both scales; and the sides are right where a half pixel could go either way."""
    content, style = picture(65, 98), picture(40, 32, 1)
    options = {"num_iter": 4, "scales": 2, "size": 98, "init": init}
    options |= {"learning_rate": 0.5, "init_noise": 0, "content_weight": 1}
    settings = nst.Settings(**LIGHT | options)
    seen = []

    def on_step(step):
        seen.append((step.picture(), step.picture(size=49), step.losses["total"]))

    at_end = nst.stylize(content, style, settings, on_step)
    amid = nst.stylize(content, style, settings, lambda step: step.iteration < 2)
    for begin, end, result in ((0, 2, amid), (3, 4, at_end)):
        whole, small, total = seen[end]
        assert total == min(total for _, _, total in seen[begin : end + 1])  # is the best
        assert (result.image == whole).all()
        assert small.shape == (32, 49, 3)
    assert np.abs(small - np.float32(resized(whole, 49))).mean() < 1
    first = seen[0][0]
    if init == "content":
        assert (first == content).all()  # although the first scale is half as large
    else:  # the grain of noise is no detail to keep
        assert np.abs(np.diff(first.astype(float), axis=1)).mean() < 40 < 255 / 3


# Pictures on the way


def test_step_pictures(tmp_path):
    """All of the result's size and format, named so that they sort; nothing else beside."""
    content, style = picture(48, 64), picture(32, 32, 1)
    settings = nst.Settings(num_iter=9, scales=2, size=64, **LIGHT)
    record = Outputs(tmp_path / "my.result.png", save_every=2)
    seen = {}

    def on_step(step):
        record.add(step)
        seen[f"{step.iteration:06}.png"] = step.picture()

    result = nst.stylize(content, style, settings, on_step)
    record.save(result)
    assert {path.name for path in tmp_path.iterdir()} == {"my.result.png", "my.result_steps"}
    saved = sorted(path.name for path in (tmp_path / "my.result_steps").iterdir())
    assert saved == ["000002.png", "000004.png", "000006.png", "000008.png"]
    for name in saved:
        assert (images.load(tmp_path / "my.result_steps" / name) == seen[name]).all()
        assert seen[name].shape == result.image.shape


def test_going_on_after_a_crash(tmp_path):
    """From the last picture on the way: at full size, nothing of it lost, to a loss like that of
    the whole run. The margin and Adam's moments begin anew."""
    content, style = picture(48, 64), picture(32, 32, 1)
    options = {"network": "small", "size": 64}
    settings = nst.Settings(num_iter=20, scales=1, **options)
    whole = nst.stylize(content, style, settings)
    written, seen = Outputs(tmp_path / "x.png", save_every=10), []
    half = nst.stylize(content, style, settings, lambda x: written.add(x) or x.iteration < 10)
    init = str(tmp_path / "x_steps/000010.png")
    settings = nst.Settings(num_iter=10, init=init, **options)
    rest = nst.stylize(content, style, settings, lambda step: seen.append(step.picture(exact=True)))
    assert (seen[0] == images.load(init)).all()
    assert rest.best_losses["total"] < half.best_losses["total"]
    assert rest.best_losses["total"] < 1.1 * whole.best_losses["total"]


def test_going_on_with_the_photographs_colours():
    """They are put back on each result, and are not among what is optimized."""
    content = np.float32(picture(48, 64))
    grey, _, finish = colors.prepare("content", content, [])
    lightness = grey * 0.9
    settings = nst.Settings(init="x.png", colors="content")
    pictures = sources.Sources(content, [], [], finish(lightness), 1.0).in_colors(settings)
    start = sources.start_image(settings, pictures)
    assert np.ptp(start, axis=-1).max() < 0.01
    assert np.abs(start - lightness).mean() < 1  # some colours are none of sRGB's, and clipped


def test_names_sort_however_many(tmp_path):
    record = Outputs(tmp_path / "x.jpg", save_every=5_000_000)
    for step in fake_steps([(8, 2)], num_iter=10_000_000):
        step.iteration *= 5_000_000
        record.add(step)
    assert sorted(x.name for x in (tmp_path / "x_steps").iterdir()) == [
        "05000000.jpg",
        "10000000.jpg",
    ]


def test_pictures_of_an_earlier_run_are_replaced_not_without_a_word(tmp_path, caplog):
    folder = tmp_path / "x_steps"
    folder.mkdir()
    for name in ("000002.png", "000500.JPG", "1234567.webp"):
        images.save(folder / name, picture(9, 9), MADE)
    for name in ("notes.txt", "my 000500.jpg", "000500.txt", "12345.jpg"):
        (folder / name).write_text("the user's own")
    before = sorted(folder.iterdir())
    record = Outputs(tmp_path / "x.png", save_every=2)
    record.check()
    assert f"3 earlier pictures in {folder} will be replaced" in caplog.text
    steps = fake_steps([(8, 4)])
    record.add(next(steps))
    record.add(next(steps))
    assert sorted(folder.iterdir()) == before  # as long as there is no new one
    for step in steps:
        record.add(step)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["000002.png", "000004.png", "notes.txt", "my 000500.jpg", "000500.txt", "12345.jpg"]
    )
    assert images.image_size(folder / "000002.png") == (6, 4)
    made = images.read_metadata(folder / "000002.png")
    assert (made["content"], made["style"], made["iterations"]) == ("a.jpg", ["b.jpg"], 2)


@pytest.mark.parametrize("name", ["20240105.jpg", "000002.png"])
def test_pictures_of_others_are_not_replaced(tmp_path, name, caplog):
    folder = tmp_path / "x_steps"
    folder.mkdir()
    images.save(folder / "000004.png", picture(9, 9), MADE)
    images.save(folder / name, picture(9, 9))
    record = Outputs(tmp_path / "x.png", save_every=2)
    told = f"{name} was not made by this program; move it or choose another --result"
    with pytest.raises(UserError, match=told):
        record.check()
    for step in fake_steps([(8, 4)]):  # nobody has asked
        record.add(step)
    assert told in caplog.text
    assert {x.name for x in folder.iterdir()} == {name, "000004.png"}
    assert images.image_size(folder / name) == (9, 9)


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_outputs_of_a_second_run(tmp_path, ending):
    """In the same files: the animation is of that run alone, which may be of another size."""
    record = Outputs(tmp_path / "x.png", timelapse=tmp_path / f"x{ending}")
    for side in (16, 32):
        image = smooth(side, side, (0, 0, 0), (255, 255, 255))
        for step in fake_steps([(side, 3)], lambda x, _, image=image: image // (x + 1)):
            record.add(step)
        record.save(finished(image))
    frames, _ = frames_of(tmp_path / f"x{ending}")
    assert frames.shape[1:] == (32, 32, 3)


def test_frames_of_a_scale_are_not_many(tmp_path):
    record = Outputs(tmp_path / "x.png", timelapse=tmp_path / "x.gif")
    taken = 0
    for step in fake_steps([(8, 3000)], lambda *_: np.zeros((4, 6, 3), np.uint8)):
        record.add(step)
        taken = len(record._frames)
    assert taken == outputs.FRAMES


@pytest.mark.parametrize("link", [None, Path.symlink_to, Path.hardlink_to])
def test_pictures_of_an_earlier_run_in_use_are_kept(tmp_path, link):
    folder = tmp_path / "x_steps"
    folder.mkdir()
    images.save(folder / "000500.png", picture(9, 9))
    source = tmp_path / "link.png" if link else folder / "000500.png"
    if link:
        link(source, folder / "000500.png")
    with pytest.raises(UserError, match="would be replaced; choose another --result") as error:
        Outputs(tmp_path / "x.png", save_every=2).check(["a.jpg", str(source)])
    assert str(source) in str(error.value)
    Outputs(tmp_path / "y.png", save_every=2).check(["a.jpg", str(source)])


def test_no_folder_for_step_pictures(tmp_path):
    (tmp_path / "x_steps").write_text("the user's own")
    with pytest.raises(UserError, match=r"x_steps: it is a file; choose another -r"):
        Outputs(tmp_path / "x.png", save_every=2).check()
    Outputs(tmp_path / "x.png").check()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_protected_folder_for_step_pictures(tmp_path):
    (tmp_path / "x_steps").mkdir(mode=0o555)
    with pytest.raises(UserError, match="Permission denied"):
        Outputs(tmp_path / "x.png", save_every=2).check()


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (images, "save", UserError("cannot write x: No space left on device")),
        (Path, "mkdir", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_failing_step_pictures_do_not_end_the_run(
    tmp_path, monkeypatch, caplog, owner, name, error
):
    attempts = []

    def failing(*args, **kwargs):
        attempts.append(args)
        raise error

    monkeypatch.setattr(owner, name, failing)
    record = Outputs(tmp_path / "x.png", save_every=2)
    for step in fake_steps([(8, 9)]):
        record.add(step)
    assert len(attempts) == 1
    (message,) = caplog.messages
    assert message.startswith("cannot ")
    assert "No space left on device; the run goes on without" in message


# The animation


def taken(plan):
    """The iterations of which the animation has frames."""
    found = []

    def at(iteration, size):
        found.append(iteration)
        return np.zeros((4, 6, 3), np.uint8)

    record = Outputs("x.png", timelapse="x.gif")
    for step in fake_steps(plan, at):
        record.add(step)
    return found


def test_spacing():
    """At each scale at the iterations 1000 * (i / 25)**3 from its first, which are ever farther
    apart; the defaults have about fifty."""
    plan = [(128, 571), (256, 286), (512, 143)]
    found = taken(plan)
    assert 40 <= len(found) <= 60
    expected = set()
    for first, end in ((0, 571), (572, 857), (858, 1000)):
        cubes = (first + math.ceil(1000 * i**3 / 25**3) for i in range(26))
        expected |= {iteration for iteration in cubes if iteration <= end}
    assert set(found) == expected
    assert found[:6] == [0, 1, 2, 5, 8, 14]


@pytest.mark.parametrize(
    ("num_iter", "scales", "most"),
    [(1, 1, 2), (3, 1, 4), (20_000, 1, 26), (20_000, 5, 90), (300, 9, 110)],
)
def test_number_of_frames_is_bounded(num_iter, scales, most):
    shares = [0.5**k for k in range(scales)]
    plan = [(k, round(num_iter * share / sum(shares))) for k, share in enumerate(shares)]
    found = taken(plan)
    assert found[0] == 0
    assert min(num_iter, 18) < len(found) <= most


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [(45, 67, 67, (44, 66)), (170, 95, 170, (80, 44)), (16, 80, 80, (16, 80))],
)
def test_frames(tmp_path, monkeypatch, ending, height, width, size, expected):
    """From the start image to the result, all of one even size, the first and last seen longer."""
    needs_ffmpeg(ending)
    monkeypatch.setattr(outputs, "SIZE", 80)
    start = smooth(height, width, (200, 30, 30), (240, 200, 30))
    result = smooth(height, width, (30, 60, 220), (120, 120, 120))
    record = Outputs(tmp_path / "x.png", timelapse=str(tmp_path / f"x{ending}"))

    def at(iteration, size):
        return resized((start * (1 - iteration / 10) + result * (iteration / 10)), size)

    for step in fake_steps([(32, 6), (64, 3)], at, size=size):
        record.add(step)
    assert not list(tmp_path.iterdir())
    record.save(finished(result))
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", f"x{ending}"}
    frames, durations = frames_of(tmp_path / f"x{ending}")
    assert frames.shape[1:] == (*expected, 3)
    if ending == ".mp4":
        assert durations == [100] * (5 + 9 + 20)
        assert (np.abs(frames[1:5] - np.float32(frames[0])).mean(axis=(1, 2, 3)) < 3).all()
        frames = frames[4:15]
    else:
        assert durations == [500, *[100] * 9, 2000]
    assert len(frames) == 11
    for iteration, frame in enumerate(frames):
        wanted = at(iteration, min(size, 80))[: expected[0], : expected[1]]
        assert np.abs(frame - np.float32(wanted)).mean() < 3, iteration


@pytest.mark.parametrize("ending", ENDINGS)
def test_colours(tmp_path, ending):
    needs_ffmpeg(ending)
    patches = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    image = np.repeat(np.repeat(np.uint8([patches[:3], patches[3:]]), 32, 0), 32, 1)
    record = Outputs(tmp_path / "x.png", timelapse=str(tmp_path / f"x{ending}"))
    record.add(next(fake_steps([(32, 1)], lambda *_: 255 - image)))
    record.save(finished(image))
    frames, _ = frames_of(tmp_path / f"x{ending}")
    difference = frames[-1] - np.float32(image)
    assert np.abs(difference[16::32, 16::32]).max() < 6


def test_mp4_plays_everywhere(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "x.MP4"
    Outputs(tmp_path / "x.png", timelapse=str(path)).save(finished(picture(64, 64)))
    about = next(imageio_ffmpeg.read_frames(str(path)))
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p(tv, bt709")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # so that it plays while it loads


# From the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images.save("photo.webp", smooth(40, 64, (200, 30, 30), (240, 200, 30)))
    images.save("style.png", picture(64, 64, 1))
    return tmp_path


def main(*argv):
    good = {"-c": "photo.webp", "-s": "style.png", "-r": "out.png", "--network": "small"}
    quick = ["--size", 64, "-n", 8, "-l", 5, "--init_noise", 0, "--style_layers", "level1_conv1"]
    quick += ["--colors", "style"]
    return nst.main(arguments(good, [*quick, *argv]))


def test_run(files, caplog):
    assert main("--timelapse", "run.gif", "--save_every", 4, "--scales", 2) == 0
    assert sorted(path.name for path in files.iterdir()) == [
        *("out.png", "out_steps", "photo.webp", "run.gif", "style.png")
    ]
    assert sorted(x.name for x in Path("out_steps").iterdir()) == ["000004.png", "000008.png"]
    frames, _ = frames_of(Path("run.gif"))
    assert frames.shape[1:] == (40, 64, 3)
    for frame, path in ((frames[0], "photo.webp"), (frames[-1], "out.png")):
        assert np.abs(frame - images.load(path)).mean() < 4
    change = np.abs(np.diff(np.float32(frames), axis=0)).mean(axis=(1, 2, 3))
    assert len(frames) == 9
    assert (change > 0.5).sum() >= 7
    assert not caplog.records
    assert main("--timelapse", "run.gif", "--save_every", 4, "--scales", 2) == 0
    assert len(caplog.messages) == 3
    for name in ("out.png", "out_steps", "run.gif"):
        assert any(f"{name} " in message for message in caplog.messages)


def test_mp4_without_ffmpeg(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # importing it fails
    monkeypatch.setattr(nst, "stylize", lambda *args, **how: pytest.fail("is accepted"))
    assert main("--timelapse", "x.mp4") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install imageio-ffmpeg" in err
    assert ".gif" in err


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ending", ENDINGS)
def test_failing_animation_costs_neither_result_nor_earlier_animation(
    files, capsys, monkeypatch, ending
):
    needs_ffmpeg(ending)
    Path(f"x{ending}").write_text("the earlier one")
    if ending == ".mp4":
        failed = subprocess.CompletedProcess([], 1, b"", b"more\nx: No space left on device\n")
        monkeypatch.setattr(animation.subprocess, "run", lambda *args, **kwargs: failed)
    else:
        save = Image.Image.save

        def failing(self, file, *args, **options):
            file.write(b"a first part")
            (full_disk if "save_all" in options else save)(self, file, *args, **options)

        monkeypatch.setattr(Image.Image, "save", failing)
        monkeypatch.setattr(images, "save", lambda *args: Path(args[0]).write_text("the result"))
    assert main("--timelapse", f"x{ending}") == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert f"cannot write x{ending}: " in err
    assert "No space left on device; out.png is whole" in err
    assert Path("out.png").exists()
    assert Path(f"x{ending}").read_text() == "the earlier one"
    assert not list(files.glob(".nst*"))


def test_interrupted_run_has_its_animation(files, monkeypatch):
    add = Outputs.add

    def interrupting(self, step):
        add(self, step)
        if step.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Outputs, "add", interrupting)
    assert main("--timelapse", "x.webp", "--save_every", 2) == 130
    frames, _ = frames_of(Path("x.webp"))
    assert len(frames) in {4, 5}  # the result may be that of the last step
    assert np.abs(frames[0] - images.load("photo.webp")).mean() < 3
    assert np.abs(frames[-1] - images.load("out.png")).mean() < 5
    assert [x.name for x in Path("out_steps").iterdir()] == ["000002.png"]
    assert images.read_metadata("out.png")["iterations"] == 3
