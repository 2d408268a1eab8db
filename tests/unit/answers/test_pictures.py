"""Images fit an answer: whole, smaller if need be, never cut."""

import io
import random

import pytest
from PIL import Image

from kernelry_mcp.answers.pictures import IMAGE_BYTES, IMAGE_PIXELS, fitted

SIDE = 2_000


def picture(width: int, height: int, mode: str = "RGB") -> bytes:
    """Return a PNG that does not compress."""
    dice = random.Random(3)
    size = width * height * len(mode)
    buffer = io.BytesIO()
    Image.frombytes(mode, (width, height), dice.randbytes(size)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_small_image_stays_as_it_is() -> None:
    data = picture(100, 80)
    shown = fitted(data, SIDE)
    assert (shown.mime, shown.data, shown.size, shown.of) == (
        *("image/png", data),
        *((100, 80), (100, 80)),
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_large_image_becomes_smaller_and_whole(mode: str) -> None:
    shown = fitted(picture(2000, 1500, mode), SIDE)
    assert len(shown.data) <= IMAGE_BYTES
    assert shown.of == (2000, 1500)
    with Image.open(io.BytesIO(shown.data)) as image:
        image.load()
        assert image.size == shown.size
        assert image.width * image.height <= IMAGE_PIXELS
        assert abs(image.width / image.height - 4 / 3) < 0.01
        assert shown.mime == f"image/{str(image.format).lower()}"


@pytest.mark.parametrize("size", [(50, 9000), (9000, 50)])
def test_no_side_is_longer_than_models_see(size: tuple[int, int]) -> None:
    shown = fitted(picture(*size), SIDE)
    assert max(shown.size) == SIDE
    assert shown.of == size


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("BMP", "image/png")])
def test_the_type_is_that_of_the_bytes_and_what_clients_do_not_show_is_converted(
    kind: str, mime: str
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    shown = fitted(buffer.getvalue(), SIDE)
    assert shown.mime == mime
    with Image.open(io.BytesIO(shown.data)) as image:
        assert f"image/{str(image.format).lower()}" == mime


@pytest.mark.parametrize("data", [b"", b"nonsense", picture(100, 80)[:80], picture(100, 80)[:900]])
def test_what_is_no_image_or_not_all_of_one_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="broken"):
        fitted(data, SIDE)
