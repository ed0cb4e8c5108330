"""Optimizers of the pixels of an image, all with one signature:

    optimizer(evaluate, image, learning_rate, num_iter, **hyperparameters)

`evaluate`: image, a float32 tensor [1, H, W, 3] in 0..255 -> (loss, gradient); `image`: a variable
with the first image, which an optimizer may change, so that a large one is there once; `num_iter`:
how many iterations the run is planned to have. An optimizer ends by what `evaluate` raises, or
where the loss falls no further. Its hyperparameters have defaults.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

from nstlib import networks, tf


def adam(
    evaluate: Callable,
    image: "tf.Variable",
    learning_rate: float,
    num_iter: int,
    beta_1: float = 0.8,
    beta_2: float = 0.8,
) -> None:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), within 0..255.

    The learning rate falls along a half cosine, so that the last steps smooth out the noise that
    the first ones leave. The paper's β₁ 0.9 and β₂ 0.999 average over noise that the gradients of
    an image do not have, and forget too slowly how large they were: 0.8 and 0.8 take half as many
    iterations (benchmarks/betas.py).
    """
    mean, square = (tf.Variable(tf.zeros_like(image)) for _ in range(2))

    @networks.compiled
    def update(gradient, rate, power_1, power_2):
        tf.raw_ops.ResourceApplyAdam(  # in place, where Keras's makes copies of large pictures
            var=image.handle,
            m=mean.handle,
            v=square.handle,
            beta1_power=power_1,
            beta2_power=power_2,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=1e-7,
            grad=gradient,
        )

    @networks.compiled
    def clip():
        image.assign(tf.clip_by_value(image, 0.0, 255.0))

    for step in itertools.count():
        rate = learning_rate * (1 + math.cos(math.pi * min(1, step / num_iter))) / 2
        numbers = map(np.float32, (rate, beta_1 ** (step + 1), beta_2 ** (step + 1)))
        # The gradient has no name: it is gone before the image is clipped, which takes a copy.
        update(evaluate(tf.convert_to_tensor(image))[1], *numbers)
        clip()


def lbfgs(
    evaluate: Callable,
    image: "tf.Variable",
    learning_rate: float = 1.0,
    num_iter: int = 0,
    memory: int = 10,
) -> None:
    """Zhu, Byrd, Lu and Nocedal, "Algorithm 778: L-BFGS-B" (ACM TOMS 1997), within 0..255.

    What the paper uses, by SciPy. `evaluate` should be exact to float32, or the line search fails;
    the line search also finds the step, so that learning rate and plan are of no use. `memory`: of
    so many steps it estimates the curvature.
    """
    from scipy import optimize

    def function(pixels):
        loss, gradient = evaluate(tf.constant(pixels.reshape(image.shape), tf.float32))
        return loss, np.float64(gradient).ravel()

    optimize.minimize(
        function,
        np.float64(image).ravel(),
        method="L-BFGS-B",
        jac=True,
        bounds=optimize.Bounds(0, 255),
        options={"maxfun": np.inf, "maxiter": np.inf, "ftol": 0, "gtol": 0, "maxcor": memory},
    )


OPTIMIZERS = {"adam": adam, "lbfgs": lbfgs}
NEED_FLOAT32 = {"lbfgs"}  # for their line search
