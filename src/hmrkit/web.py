"""A page in the browser: a picture in; an overlay, a model to turn, and files out (Gradio)."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.api import Model, predict

_ABOUT = """# hmrkit: {method}
{how}
"""
_FINDS = "It finds everybody in the picture."
_LOOKS = (
    "It looks at one person per box. Without boxes the whole picture is one box: crop it to a "
    "person, or give boxes as `x1 y1 x2 y2` in pixels, one a line."
)


def show(
    model: Model, image: np.ndarray | None, boxes: str, focal_px: float, min_score: float
) -> tuple[np.ndarray, str | None, list[str], str]:
    """What the page shows of a picture.

    Args:
        model: of ``hmrkit.api.load``.
        image: (H, W, 3) uint8 RGB.
        boxes: a box a line, x1 y1 x2 y2 px; empty for the whole picture.
        focal_px: of the picture; 0 if it is not known.
        min_score: who scores above is somebody.

    Returns:
        The overlay (H, W, 3), a glb or None where nobody is, all files, and a sentence.

    Raises:
        ValueError: if there is no picture, or a box cannot be.
    """
    if image is None:
        raise ValueError("choose a picture first")
    people = predict(
        model, image, read_boxes_text(boxes), focal_px=focal_px or None, min_score=min_score
    )
    folder = Path(tempfile.mkdtemp(prefix="hmrkit_"))
    names = ["people.npz", "people.glb", "people.obj"] if len(people) else ["people.npz"]
    for name in names:
        people.save(folder / name)
    files = [str(folder / name) for name in names]
    depths = ", ".join(f"{z:.1f} m" for z in people.joint("pelvis")[:, 2])
    camera = "" if focal_px else f" if the focal length is {people.intrinsics_img[1, 1]:.0f} px"
    said = f"{len(people)} found, at {depths}{camera}" if len(people) else "nobody found"
    return people.overlay(image), files[1] if len(people) else None, files, said


def read_boxes_text(text: str) -> np.ndarray | None:
    """Boxes (N, 4) px of text, a box a line; None where there are none.

    Raises:
        ValueError: naming the line that is no box.
    """
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    for row in rows:
        try:
            is_box = len([float(value) for value in row]) == 4
        except ValueError:
            is_box = False
        if not is_box:
            raise ValueError(f"box {' '.join(row)!r}: give x1 y1 x2 y2 in pixels, a box a line")
    return np.array(rows, np.float32) if rows else None


def build_page(model: Model) -> Any:
    """The page, a ``gradio.Blocks``; ``launch()`` serves it.

    Raises:
        ValueError: if Gradio is missing.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise ValueError(
            f'the page needs Gradio ({error}): pip install "hmrkit[app]"; '
            "python -m hmrkit.doctor shows what is installed"
        ) from error

    def answer(
        image: np.ndarray | None, boxes: str, focal_px: float, min_score: float
    ) -> tuple[np.ndarray, str | None, list[str], str]:
        try:
            return show(model, image, boxes, focal_px, min_score)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error)) from error  # a message in the page, not a traceback

    how = _FINDS if model.finds_people else _LOOKS
    with gr.Blocks(title=f"hmrkit: {model.method}", analytics_enabled=False) as page:
        gr.Markdown(_ABOUT.format(method=model.method, how=how))
        with gr.Row():
            with gr.Column():
                image = gr.Image(label="Picture", type="numpy", image_mode="RGB")
                boxes = gr.Textbox(label="Boxes", lines=2, visible=not model.finds_people)
                min_score = gr.Slider(
                    0.0, 0.95, 0.5, label="Least score", visible=model.finds_people
                )
                focal_px = gr.Number(0, label="Focal length in pixels, 0 = not known")
                button = gr.Button("Recover", variant="primary")
            with gr.Column():
                overlay = gr.Image(label="Overlay")
                said = gr.Textbox(label="Result", interactive=False)
            with gr.Column():
                model3d = gr.Model3D(label="Turn it", clear_color=(1.0, 1.0, 1.0, 1.0))
                files = gr.Files(label="Files")
        inputs, outputs = [image, boxes, focal_px, min_score], [overlay, model3d, files, said]
        button.click(answer, inputs, outputs, api_name="predict")
    return page
