"""Limited-memory BFGS, which the paper uses, by SciPy."""

from collections.abc import Callable

import numpy as np

from nstlib import tf


def lbfgs(evaluate: Callable, start: "tf.Variable") -> None:
    """Zhu, Byrd, Lu and Nocedal, "Algorithm 778: L-BFGS-B" (ACM TOMS 1997), within 0..255.

    evaluate: image, float32 [1, H, W, 3] -> (loss, gradient), which should be exact to float32, or
    the line search fails. Ends by what `evaluate` raises, or where the loss falls no further.
    """
    from scipy import optimize

    def function(pixels):
        image = tf.constant(pixels.reshape(start.shape), tf.float32)
        loss, gradient = evaluate(image)
        return loss, np.float64(gradient).ravel()

    optimize.minimize(
        function,
        np.float64(start).ravel(),
        method="L-BFGS-B",
        jac=True,
        bounds=optimize.Bounds(0, 255),
        options={"maxfun": np.inf, "maxiter": np.inf, "ftol": 0, "gtol": 0, "maxcor": 10},
    )
