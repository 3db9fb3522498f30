"""Figures of matplotlib, an optional dependency."""


def figure(name, **kwargs):
    """An empty figure that is tied to no window.

    Args:
        name: What draws it, for the error.
        **kwargs: What `matplotlib.figure.Figure` takes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"`{name}` needs matplotlib. Install it with `pip install 'tfprune[demo]'`."
        ) from error
    return Figure(**kwargs)
