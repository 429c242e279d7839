"""Tables of the quantisation benchmarks, for `page.py`."""

from __future__ import annotations

from typing import Any

MODELS = {"recogniser": "PP-OCRv4 recogniser", "crnn": "PP-OCRv2 CRNN", "detector": "PP-OCRv4 detector"}


def static_tables(results: Any) -> str:
    """A table for each of PaddleOCR's networks."""
    parts = []
    for key, name in MODELS.items():
        rows, pages = results[key], key == "detector"
        judged = "hmean | IoU of the map | boxes found" if pages else "exact | CER"
        lines = [f"{name}:", "", f"| | {judged} | MiB | × time (interval) |"]
        lines.append("|---|" + "---:|" * (5 if pages else 4))
        for label, row in rows.items():
            if "mib" not in row:
                cells = [f"fails: {row['fails'][:80]}"] + [""] * (4 if pages else 3)
            elif pages:
                cells = [f"{row['hmean']:.3f}", f"{row['map_iou']:.3f}", f"{row['boxes_found']:.2f}"]
            else:
                cells = [f"{row['exact']:.3f}", f"{row['cer']:.4f}"]
            if "mib" in row:
                cells += [f"{row['mib']:.2f}", _ratio(row["timing"]["ratio"])]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def mobilenet_table(results: Any) -> str:
    """Agreement over all folds."""
    lines = ["| | agreement | sure | signal to error, dB | MiB | × faster |", "|---|---:|---:|---:|---:|---:|"]
    for label, row in results.items():
        cells = ["1.000", "1.000", ""]
        if "agreement" in row:
            decibels = ", ".join(f"{value:.1f}" for value in row["snr_db"])
            cells = [f"{row['agreement']:.3f}", f"{row['sure_agreement']:.3f}", decibels]
        lines.append(f"| {label} | {' | '.join(cells)} | {row['mib']:.2f} | {row['times_faster']:.2f} |")
    return "\n".join(lines)


def transformer_table(results: Any) -> str:
    """Meaning, size and time."""
    lines = ["| | mean cosine | MiB | × time (interval) |", "|---|---:|---:|---:|"]
    for label, row in results.items():
        if "fails" in row:
            lines.append(f"| {label} | fails: {row['fails'][:80]} | | |")
            continue
        lines.append(f"| {label} | {row['cosine']:.4f} | {row['mib']:.2f} | {_ratio(row['timing']['ratio'])} |")
    return "\n".join(lines)


def _ratio(ratio: Any) -> str:
    return "1" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} – {ratio['high']:.2f})"
