"""Pictures that are composed and saved, but not rendered: for runs of which nobody looks at a picture."""

import contextlib
from collections.abc import Iterator
from unittest.mock import patch


@contextlib.contextmanager
def blank() -> Iterator[None]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with patch.object(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer):
        yield
