"""Figures of matplotlib, which is an optional dependency."""

import pathlib

from tfprune._tools.files import written_whole


class Plottable:
    """A result that draws itself: `_figure()` returns the matplotlib figure."""

    def plot(self, path):
        """Draws the result to a file.

        Args:
            path: The file to write; its suffix selects the format, `.png`, `.svg` or `.pdf`.

        Returns:
            The path as `pathlib.Path`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        path, figure = pathlib.Path(path), self._figure()
        with written_whole(path) as place:
            figure.savefig(place)
        return path


def figure(name, **kwargs):
    """An empty figure that is tied to no window.

    Args:
        name: What draws it, for the error.
        **kwargs: What `matplotlib.figure.Figure` takes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return require(name)(**kwargs)


def require(name):
    """The class of figures.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"`{name}` needs matplotlib. Install it with `pip install 'tfprune[demo]'`."
        ) from error
    return Figure
