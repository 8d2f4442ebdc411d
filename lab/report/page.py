"""What was gathered as one HTML page: the data as JSON that the page's own script reads, everything else by template.

No text of a user is ever markup: templates escape it, JSON escapes `<`, and the script sets it as text. The page's
policy allows nothing but the script and the style whose hashes it names, so that even a mistake here could run nothing
and fetch nothing.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from analyze import Head
from conf.schema import as_yaml
from lab.figures.colours import BOX_COLOUR, MASK_COLOUR, REFINED_COLOUR
from lab.heads.files import NAME as HEADS_FILE
from lab.report import tables
from lab.report.contents import Gathered, Shown
from lab.report.pictures import text_of
from lab.report.samples import Finding, Maps, disagreement

HERE = Path(__file__).parent
SCRIPTS = ("data", "draw", "heads", "gallery", "sample", "app")  # static/*.js, in this order, in one closure
BINS = 20  # of the histogram of IoU

to_json = partial(htmlsafe_json_dumps, dumps=partial(json.dumps, separators=(",", ":"), allow_nan=False))


class _Fields(Environment):
    """Jinja, where `row.clear` is the field of that name and never the method of the dict."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)


def render(gathered: Gathered, *, resamples: int, seed: int) -> str:
    """The whole page; intervals come from so many resamples."""
    script, style = script_text(), style_text()
    environment = _Fields(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2")
    runs = [_run_view(gathered, index, resamples, seed) for index in range(len(gathered.runs))]
    return page.render(
        script=Markup(script),  # our own files
        style=Markup(style),
        hashes={"script": _hash(script), "style": _hash(style)},
        runs=runs,
        comparison=_comparison(gathered, resamples, seed) if len(runs) == 2 else None,
        shown=len(gathered.samples),
        total=gathered.total,
        seed=seed,
        hit=tables.HIT,
        presence=[any(one.findings[i].presence is not None for one in gathered.samples) for i in range(len(runs))],
        data=to_json(
            {"colours": colours(), "hit": tables.HIT, "runs": _runs_data(gathered), "samples": samples_data(gathered)}
        ),
        pictures=gathered.pictures,
        maps=[
            (run, place, to_json(maps_data(finding.maps)))
            for place, sample in enumerate(gathered.samples)
            for run, finding in enumerate(sample.findings)
            if finding.maps
        ],
    )


@cache
def script_text() -> str:
    """The page's script: its files in one closure, so that they see each other and nothing sees them."""
    parts = [(HERE / "static" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


@cache
def style_text() -> str:
    """The page's style: box and mask in the colours of the figures, then static/page.css."""
    found = f":root {{ --found: {BOX_COLOUR}; --masked: {MASK_COLOUR}; --sharp: {REFINED_COLOUR}; }}"
    return f"{found}\n{(HERE / 'static' / 'page.css').read_text(encoding='utf-8')}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def colours() -> str:
    """The heat colours of the figures, 256 of red, green and blue, in base64."""
    from lab.figures.style import HEAT  # matplotlib, only when a page is made

    return text_of((HEAT(np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())


# what the templates show


def _run_view(gathered: Gathered, index: int, resamples: int, seed: int) -> dict[str, Any]:
    run, findings = gathered.runs[index], [sample.findings[index] for sample in gathered.samples]
    scores = tables.scores_of_run(gathered, index)
    fresh, saved = tables.fresh_estimates(scores, resamples, seed), tables.saved_estimates(run.folder.metrics)
    sharp = tables.saved_estimates(run.folder.metrics, "refined") if run.rules.refine else {}
    ious = [score.box_iou for score in scores if score.box_iou is not None]
    return {
        "label": "AB"[index],
        "name": str(run.folder.path),
        "model": str(tables.model_name(run, findings)),
        "facts": tables.facts(run, findings),
        "config": as_yaml(run.settings),
        "failures": list({**run.folder.errors, **gathered.unreadable(index)}.items()),
        "fresh": tables.metric_table({"chosen heads": fresh}) if fresh else None,
        "groups": tables.group_table(fresh) if fresh else None,
        "scored": len(scores),
        "unanswered": sum(
            sample.findings[index].status != "done" for sample in gathered.samples if sample.findings[index].score
        ),
        "saved": tables.metric_table(saved) if saved else None,
        "saved_samples": max((one.n for estimates in saved.values() for one in estimates), default=0),
        "sharp": tables.metric_table(sharp) if sharp else None,
        "other_rules": tables.other_rules(run.folder.metrics, run.settings),
        "histogram": np.histogram(ious, BINS, (0, 1))[0].tolist() if ious else None,
        "rho": _rho(run.folder.metrics),
        "selection": _selection(run.folder.selection),
        "ranked": sum(bool(finding.best) for finding in findings),
        "top_n": run.rules.logic.select.top_n,
    }


def _rho(metrics: Mapping[str, Any] | None) -> float | None:
    found = (metrics or {}).get("spearman_selection_iou")
    rho = found.get("rho") if isinstance(found, Mapping) else None
    return float(rho) if isinstance(rho, int | float) and math.isfinite(rho) else None


def _selection(selection: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The first heads of localization_heads.json and how they were counted.

    None if it is missing or of another kind.
    """
    try:
        rows = [
            (
                int(row["layer"]),
                int(row["head"]),
                100 * float(row["frequency"]),
                100 * float(row["frequency_std"]),
                int(row["count"]),
            )
            for row in (selection or {})["heads"][:10]
        ]
        return {
            "rows": rows,
            "file": HEADS_FILE,
            **{k: int((selection or {})[k]) for k in ("samples", "trials", "samples_per_trial")},
        }
    except (LookupError, TypeError, ValueError):
        return None


def _comparison(gathered: Gathered, resamples: int, seed: int) -> dict[str, Any]:
    rows, both, one_only = tables.differences(gathered, resamples, seed)
    ious = [[f.score.box_iou if f.score else None for f in sample.findings] for sample in gathered.samples]
    return {
        "rows": rows,
        "both": both,
        "one_only": one_only,
        "span": max([5.0, *(max(abs(row["low"]), abs(row["high"])) for row in rows)]),
        "settings": tables.config_differences(*(run.settings for run in gathered.runs)),
        "points": [pair for pair in ious if None not in pair],
    }


# what the script reads


def _runs_data(gathered: Gathered) -> list[dict[str, Any]]:
    rows = []
    for index, run in enumerate(gathered.runs):
        findings = [sample.findings[index] for sample in gathered.samples]
        counts = tables.head_counts(findings, run.rules.logic.select.top_n)
        shape = counts.shape if counts is not None else (0, 0)
        quality = np.array((run.folder.metrics or {}).get("head_mean_iou") or [], float)
        rows.append(
            {
                "layers": shape[0],
                "heads": shape[1],
                "ranked": sum(bool(finding.best) for finding in findings),
                "counts": [] if counts is None else counts.ravel().tolist(),
                "quality": quality.round(4).ravel().tolist() if quality.shape == shape else None,
                "fixed": [] if counts is None else [_number(h, shape) for h in tables.fixed(run, shape) or []],
            }
        )
    return rows


def _number(head: Head, shape: tuple[int, ...]) -> int:
    return head[0] * shape[1] + head[1]


def samples_data(gathered: Gathered) -> list[dict[str, Any]]:
    """Everything about the samples but their pictures and maps."""
    shapes = [tables.shape_of([s.findings[i] for s in gathered.samples]) or (0, 0) for i in range(len(gathered.runs))]
    return [_sample_data(sample, shapes) for sample in gathered.samples]


def _sample_data(sample: Shown, shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    first = sample.findings[0]
    truth = sample.truth
    return {
        "id": sample.id,
        "query": next((finding.query for finding in sample.findings if finding.query), ""),
        "picture": sample.picture,
        "size": sample.image_size,
        "truth": truth and [round(edge, 1) for edge in truth.box_xyxy],
        "outline": sample.outline,
        "split": truth.split if truth else None,
        "absent": sample.absent,
        "notes": sample.notes,
        "gap": round(disagreement(first, sample.findings[1]), 5) if len(sample.findings) == 2 else None,
        "runs": [_finding_data(finding, first, shape) for finding, shape in zip(sample.findings, shapes, strict=True)],
    }


def _finding_data(finding: Finding, first: Finding, shape: tuple[int, int]) -> dict[str, Any]:
    score = finding.score
    mask_iou = (
        None if score is None or score.intersection is None else round(score.intersection / max(score.union or 0, 1), 4)
    )
    return {
        "status": finding.status,
        "why": finding.why,
        "query": finding.query if finding.query != first.query else None,
        "iou": None if score is None or score.box_iou is None else round(score.box_iou, 4),
        "maskIou": mask_iou,
        "pointed": None if score is None else score.pointed,
        "box": finding.box_xyxy and [round(edge, 1) for edge in finding.box_xyxy],
        "noBox": finding.no_box,
        "presence": None if finding.presence is None else round(finding.presence, 4),
        "outline": finding.outline if finding.outline[1] else None,
        **({"sharp": finding.sharp_outline, "sharpIou": finding.sharp_iou} if finding.sharp_outline else {}),
        "answer": str((finding.meta or {}).get("generated_text") or "") or None,
        "heads": [
            [row.layer, row.head, round(row.attn_sum, 4), _finite(row.spatial_entropy), row.num_components]
            for row in finding.heads
        ],
        "best": [_number(head, shape) for head in finding.best],
    }


def _finite(value: float) -> float | None:
    return round(abs(value), 4) if math.isfinite(value) else None


def maps_data(maps: Maps) -> dict[str, Any]:
    """The maps of one finding; `data` is [maps, rows, cols] bytes in base64."""
    _, rows, cols = maps.levels.shape
    extent = [round(edge, 2) for edge in maps.extent_xyxy]
    return {
        "rows": rows,
        "cols": cols,
        "extent": extent,
        "highest": float(f"{maps.highest:.4g}"),
        "data": text_of(maps.levels.tobytes()),
    }
