"""Rendered text for the OCR networks: lines to read, lines to turn the right way up, pages to find lines on.

Everything is drawn with the font that ships inside Pillow, with seeded noise: no file is read or fetched.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_TEXT = (
    "able about above account across action address after again against agency agree air allow almost along "
    "already amount analysis animal answer appear apply approach area argue around arrive article artist assume "
    "author average avoid balance bank base beat become before behind believe benefit best better between beyond "
    "board border bottle bring brother budget build business camera campaign capital career carry catch cause "
    "center central century certain chair challenge chance change character charge check choice choose citizen "
    "claim class clear close coach cold collect college color common community company compare computer concern "
    "condition conference consider contain continue control cost country couple course cover create crime culture "
    "current customer dark data daughter deal debate decade decide deep defense degree describe design despite "
    "detail develop difference dinner direction discover discuss doctor dream drive during early economy edge "
    "effect effort eight either election employee energy enjoy enough entire environment especially establish "
    "evening event evidence exactly example executive exist expect experience explain family father federal "
    "feeling field fight figure finally finger finish follow foreign forward friend future garden general "
    "generation glass ground growth happen health heart history hotel house hundred husband imagine impact "
    "improve include increase industry information inside instead interest interview involve issue itself kitchen "
    "knowledge language laugh lawyer leader learn letter level likely listen local machine magazine manage market "
    "matter measure medical meeting member memory mention message method middle million minute mission modern "
    "moment money month morning mother"
)
WORDS = tuple(_TEXT.split())


def text_of(random: np.random.Generator) -> str:
    """Draw a line's text: two or three words, some capitalised, some lines with a number."""
    words = [WORDS[index] for index in random.integers(0, len(WORDS), int(random.integers(2, 4)))]
    words = [word.capitalize() if random.random() < 0.3 else word for word in words]
    if random.random() < 0.4:
        words.insert(int(random.integers(0, len(words) + 1)), str(random.integers(0, 10_000)))
    return " ".join(words)


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType, which draws the text; install Pillow from a wheel")
    return font


def _drawn(text: str, size: int, margin: int, ink: int, paper: int) -> NDArray[np.uint8]:
    """Draw one line of text, cropped to it but for a margin: u8[H, W]."""
    from PIL import Image, ImageDraw

    font = _font(size)
    left, top, right, bottom = font.getbbox(text)
    canvas = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(canvas).text((margin - left, margin - top), text, fill=ink, font=font)
    return np.asarray(canvas)


def _scaled(image: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    from PIL import Image

    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _network_input(grey: NDArray[Any], random: np.random.Generator, noise: float) -> Image:
    """Add Gaussian noise (in grey levels), and give three equal channels in -1 to 1, as PaddleOCR's networks take."""
    noisy = np.clip(grey + random.normal(0, noise, grey.shape), 0, 255)
    return np.repeat((noisy / 127.5 - 1).astype(np.float32)[None], 3, 0)


def _line(random: np.random.Generator, height: int, noise: float) -> tuple[Image, str]:
    text = text_of(random)
    ink, paper = int(random.integers(0, 90)), int(random.integers(170, 256))
    drawn = _drawn(text, int(random.integers(24, 41)), int(random.integers(3, 8)), ink, paper)
    return _network_input(_scaled(drawn, height), random, noise), text


def lines(
    seed: int = 0, height: int = 48, count: int = 120, noise: float = 8.0, step: int = 64, train: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Lines of text for a recogniser: `x` f32[3, height, W], W padded with zeros to a multiple of `step`.

    Split `test` has `count` lines, `calib` 64 others, `train` as many others as that says.
    """
    return {
        name: [
            _padded(*_line(np.random.default_rng([seed, stream, index]), height, noise), step)
            for index in range(number)
        ]
        for name, number, stream in (("test", count, 1), ("calib", 64, 2), ("train", train, 5))
    }


def _padded(image: Image, text: str, step: int) -> dict[str, Any]:
    missing = -image.shape[2] % step
    return {"x": np.pad(image, ((0, 0), (0, 0), (0, missing))), "target": text}


def turned(seed: int = 0, count: int = 120, noise: float = 40.0) -> dict[str, list[dict[str, Any]]]:
    """Lines for the direction classifier: `x` f32[3, 48, 192], every other one upside down (class 1)."""
    samples: list[dict[str, Any]] = []
    for index in range(count):
        image, _ = _line(np.random.default_rng([seed, 3, index]), 48, noise)
        upside_down = index % 2
        cut = image[:, :, :192]
        cut = cut[:, ::-1, ::-1] if upside_down else cut
        canvas = np.zeros((3, 48, 192), np.float32)
        canvas[:, :, : cut.shape[2]] = cut
        samples.append({"x": canvas, "target": upside_down})
    return {"test": samples}


def pages(
    seed: int = 0, count: int = 12, height: int = 480, width: int = 640, noise: float = 24.0
) -> dict[str, list[dict[str, Any]]]:
    """Pages with lines here and there: `x` f32[3, H, W] (normalised as for ImageNet), target the boxes.

    A page's target is i64[lines, 4]: left, top, right, bottom of each line's ink, in pixels.
    """
    return {"test": [_page(np.random.default_rng([seed, 4, index]), height, width, noise) for index in range(count)]}


def _page(random: np.random.Generator, height: int, width: int, noise: float) -> dict[str, Any]:
    paper = int(random.integers(180, 256))
    canvas = np.full((height, width), paper, np.float64)
    boxes = []
    top = int(random.integers(15, 40))
    while True:
        drawn = _drawn(text_of(random), int(random.integers(10, 29)), 0, int(random.integers(0, 150)), paper)
        tall, wide = drawn.shape
        if top + tall > height - 10:
            break
        if wide < width - 30:
            left = int(random.integers(15, width - wide - 10))
            canvas[top : top + tall, left : left + wide] = drawn
            boxes.append((left, top, left + wide, top + tall))
        top += tall + int(random.integers(14, 40))
    canvas = np.clip(canvas + random.normal(0, noise, canvas.shape), 0, 255) / 255
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    image = (canvas[None] - mean[:, None, None]) / deviation[:, None, None]
    return {"x": image.astype(np.float32), "target": np.array(boxes, np.int64)}
