"""The ablation's figure fits a printed page, and no label lies on another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

from lab.ablate.estimates import Row
from lab.ablate.figure import ablation_figure
from lab.ablate.interventions import INTERVENTIONS
from lab.ablate.report import Ablation
from lab.ablate.sets import HeadSet


def ablation(interventions: list[str], metric: str, best: tuple[int, ...]) -> Ablation:
    """Made-up figures, the same for all interventions: the worst case for the names of the curves."""
    names = ["untouched", "chosen", "random", "any", "matched", "others", "all", *(f"best {k}" for k in best)]
    sets = [HeadSet(name, ((0, 0),)) for name in names]
    rows = [Row(set_.name, one, metric, 0.5, 0.3, 0.7, 0, 0, 0, 9, 1) for one in interventions for set_ in sets]
    each = {one: {metric: np.full(len(sets), 0.5)} for one in interventions}
    return Ablation(rows, interventions, sets, each, [(0, 0)], "", [], 9, 9, "", {})


@pytest.mark.parametrize("metric", ["exact", "divergence"])
@pytest.mark.parametrize("interventions", [list(INTERVENTIONS), ["zero"]])
@pytest.mark.parametrize("best", [(1, 2, 5, 10), ()])
def test_labels_can_be_read_on_a_printed_page(metric, interventions, best):
    interventions = [one for one in interventions if metric in (INTERVENTIONS[one].headline, "divergence")]
    figure = ablation_figure(ablation(interventions, metric, best))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert figure.get_figwidth() <= 7.1
    told = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert min(text.get_fontsize() for text in told) >= 7
    written = [text for axis in figure.axes for text in (*axis.texts, axis.xaxis.label, axis._left_title)]
    written += [text for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    boxes = {text: Text.get_window_extent(text, renderer) for text in written if text.get_text()}
    assert all(
        0 <= box.x0 < box.x1 <= figure.bbox.x1 and 0 <= box.y0 < box.y1 <= figure.bbox.y1 for box in boxes.values()
    )
    touching = [
        (a.get_text(), b.get_text()) for a, b in itertools.combinations(boxes, 2) if boxes[a].overlaps(boxes[b])
    ]
    assert touching == []
    if len(interventions) > 5 and best:
        curves = " ".join(text.get_text() for text in (*figure.axes[1].texts, figure.axes[1]._left_title))
        assert "by number of heads" in curves
        assert "not drawn: " in curves
        assert all(one in curves for one in interventions)
    assert len([text for text in written if isinstance(text, Annotation)]) == (
        min(5, len(interventions)) if best else 0
    )
