"""Only inline bytes of known formats and sizes get near the engine's decoders."""

import base64
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.request.media import MediaBudget


def png(width=1, height=1):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def jpeg(width=1, height=1):
    app = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + b"\0" * 9
    frame = b"\xff\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width) + b"\0" * 10
    return b"\xff\xd8" + app + frame + b"\xff\xd9"


def gif(width=1, height=1):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0" * 3


def webp(form, size):
    return b"RIFF" + struct.pack("<I", 30) + b"WEBP" + form + struct.pack("<I", 10) + size


def webp_vp8(width=1, height=1):
    return webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height))


def webp_vp8l(width=1, height=1):
    bits = (width - 1) | (height - 1) << 14
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", bits) + b"\0" * 5)


def webp_vp8x(width=1, height=1):
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", b"\0" * 4 + sizes)


def wav(rate=16_000):
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)


def url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def budget():
    return MediaBudget(vision=True, audio=True)


def refused(call, *args):
    with pytest.raises(ApiError) as caught:
        call(*args, "p")
    assert caught.value.status == 400
    assert caught.value.param == "p"
    return caught.value.code


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (png, "image/png"),
        (jpeg, "image/jpeg"),
        (gif, "image/gif"),
        (webp_vp8, "image/webp"),
        (webp_vp8l, "image/webp"),
        (webp_vp8x, "image/webp"),
    ],
)
def test_known_images_pass_and_large_ones_do_not(make, kind):
    assert budget().image(url(make(4000, 4000), kind), "p") == url(make(4000, 4000), kind)
    assert refused(budget().image, url(make(5000, 5000))) == "invalid_value"


def test_the_type_that_goes_on_is_the_one_of_the_bytes():
    assert budget().image(url(jpeg(), "image/png"), "p").startswith("data:image/jpeg;base64,")


def test_audio_may_be_bare_base64_or_a_data_url():
    data = wav()
    bare = base64.b64encode(data).decode()
    assert budget().audio(bare, "p") == url(data, "audio/wav")
    assert budget().audio(url(data, "audio/x-wav"), "p") == url(data, "audio/wav")
    mp3 = b"ID3" + b"\0" * 20
    assert budget().audio(url(mp3, "audio/mp3"), "p") == url(mp3, "audio/mpeg")


@pytest.mark.parametrize(
    "value",
    [
        "http://127.0.0.1:8080/x.png",
        "https://example.com/x.png",
        "HTTP://example.com/x",
        "file:///etc/passwd",
        "ftp://x/y",
        "//example.com/x.png",
        base64.b64encode(png()).decode(),
        "data:text/html;base64,AAAA",
        "data:video/mp4;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/png;charset=utf-8;base64,AAAA",
        " data:image/png;base64,AAAA",
        "",
    ],
)
def test_anything_but_an_inline_image_is_refused(value):
    assert refused(budget().image, value) == "remote_media_not_allowed"


@pytest.mark.parametrize("value", ["http" + "A" * 60, "https://example.com/sound/file.wav"])
def test_a_sound_that_reads_as_an_address_is_refused(value):
    assert refused(budget().audio, value) == "remote_media_not_allowed"


@pytest.mark.parametrize(
    "payload",
    ["AAA", "AAAA====", "AA=A", "AA\nAA", "AA AA", "AA_-", "A,AA", "é" * 4, "", "AAAA"],
)
def test_loose_base64_and_unknown_bytes_are_refused(payload):
    assert refused(budget().image, "data:image/png;base64," + payload) == "invalid_value"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8\xff\xda\x00\x08" + b"\0" * 20,
        b"\xff\xd8\xff\xe0\x00\x00" + b"\0" * 20,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 30,
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7 " + b"\0" * 30,
        png(0, 5),
        wav(),
    ],
)
def test_bytes_without_a_size_we_can_trust_are_no_image(data):
    assert refused(budget().image, url(data)) == "invalid_value"


def test_a_sound_that_would_unpack_hugely_is_refused():
    assert refused(budget().audio, url(wav(100), "audio/wav")) == "invalid_value"
    assert refused(budget().audio, url(png(), "audio/wav")) == "invalid_value"


def test_items_and_bytes_are_counted_over_the_request():
    media = budget()
    for _ in range(8):
        media.image(url(png()), "p")
    assert refused(media.image, url(png())) == "invalid_value"
    big = url(png() + b"\0" * (10 * 1024 * 1024))
    assert refused(budget().image, big) == "invalid_value"
    nearly = url(png() + b"\0" * (9 * 1024 * 1024))
    media = budget()
    media.image(nearly, "p")
    media.image(nearly, "p")
    assert refused(media.image, nearly) == "invalid_value"


def test_without_a_projector_the_gateway_says_so_itself():
    media = MediaBudget(vision=False, audio=False)
    assert refused(media.image, url(png())) == "not_supported_by_model"
    assert refused(media.image, "http://x") == "not_supported_by_model"
    assert refused(media.audio, url(wav(), "audio/wav")) == "not_supported_by_model"


heads = st.sampled_from([png(), jpeg(), gif(), webp_vp8(), webp_vp8l(), wav(), b"ID3", b""])


def outcome(call, value):
    try:
        return call(value, "p").partition(":")[0]
    except ApiError as error:
        return error.status


@given(heads, st.integers(0, 40), st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_media_or_a_400(head, cut, tail):
    data = head[:cut] + tail
    for call in (budget().image, budget().audio):
        assert outcome(call, url(data)) in ("data", 400)
