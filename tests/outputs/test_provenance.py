"""What is written says that it was generated, and what is read is judged in one word."""

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from tests.outputs.test_watermark import scene
from unclip.outputs.animation import save_animation
from unclip.outputs.images import read_info, save_png
from unclip.outputs.manifest import KINDS, Identity, Manifest, open_identity, read
from unclip.outputs.provenance import NOTE, UNMARKED, Evidence, Provenance, number_of
from unclip.outputs.watermark import Found, find

MARKED = Found(1e-20, 0x1234ABCD, sure=True)
NOTHING = Found(0.7)
SIGNED = Manifest(valid=True, generated=True, signer="somebody")


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return open_identity(tmp_path_factory.mktemp("keys") / "key.pem")


def test_a_png_is_marked_with_the_number_of_its_notes(tmp_path: Path) -> None:
    image = scene(0, 256)
    Provenance().save_png(image, tmp_path / "a.png", {"prompt": "a star"})
    notes = read_info(tmp_path / "a.png")
    found = find(Image.open(tmp_path / "a.png"))
    assert notes == {"prompt": "a star", NOTE: f"{number_of(image):08x}"}
    assert found.number == number_of(image)
    assert Evidence(found, notes).verdict == "generated"


def test_small_images_and_those_without_a_mark_keep_their_pixels(tmp_path: Path) -> None:
    for size, how, note in (
        (32, Provenance(), "none: smaller than 128 pixels"),
        (128, UNMARKED, "off"),
        (128, Provenance(), "presence"),
    ):
        image = scene(0, size)
        how.save_png(image, tmp_path / "a.png", {})
        same = (np.asarray(Image.open(tmp_path / "a.png")) == np.asarray(image)).all()
        assert read_info(tmp_path / "a.png") == {NOTE: note}
        assert same == (note != "presence")


def test_what_hides_its_mark_says_so() -> None:
    noise = Image.effect_noise((128, 128), 100).convert("RGB")
    _, note = Provenance().marked(noise)
    assert note == {NOTE: "hidden by noise"}


def test_the_same_image_is_written_the_same(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Provenance().save_png(scene(0, 256), tmp_path / name, {"seed": 1})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_repainted_image_goes_on_with_the_number_that_it_had() -> None:
    before, _ = Provenance().marked(scene(0, 256))
    after = before.copy()
    after.paste(scene(1, 120), (50, 50))
    repainted, note = Provenance().marked(after, kept=before)
    assert find(repainted).number == number_of(scene(0, 256))
    assert Evidence(find(repainted), note).verdict == "generated"


@pytest.mark.parametrize(
    ("found", "notes", "manifest", "verdict"),
    [
        (MARKED, {NOTE: "1234abcd"}, SIGNED, "generated"),
        (MARKED, None, None, "generated"),
        (NOTHING, None, SIGNED, "generated"),
        (NOTHING, None, dataclasses.replace(SIGNED, generated=False), "unknown"),
        (NOTHING, {NOTE: "off"}, None, "claimed"),
        (NOTHING, {"prompt": "an image of an earlier version"}, None, "claimed"),
        (NOTHING, None, None, "unknown"),
        (NOTHING, {NOTE: "1234abcd"}, None, "contradicted"),
        (NOTHING, {NOTE: "presence"}, None, "contradicted"),
        (MARKED, {NOTE: "00000000"}, None, "contradicted"),
        (dataclasses.replace(MARKED, sure=False), {NOTE: "00000000"}, None, "generated"),
        (MARKED, None, Manifest(False, True, problem="changed"), "contradicted"),
    ],
)
def test_one_verdict(found: Found, notes: object, manifest: object, verdict: str) -> None:
    evidence = Evidence(found, notes, manifest)  # type: ignore[arg-type]
    assert evidence.verdict == verdict
    assert len(evidence.sentences()) == 3
    assert bool(evidence.contradictions) == (verdict == "contradicted")


def test_hostile_notes_are_printed_without_escapes() -> None:
    notes = {NOTE: "\x1b[2J" * 1000, "version": ["\x07"]}
    said = "".join(Evidence(NOTHING, notes).sentences())
    assert said.isprintable()
    assert len(said) < 400


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_holds_until_a_byte_changes(kind: str, identity: Identity) -> None:
    data = encoded(scene(0, 128), kind)
    how = Provenance(identity=identity)
    notes = {"model": None, "prompt": "a secret", NOTE: "1234abcd", "version": "1"}
    signed = how.signed(data, kind, notes)
    found = read(signed, kind)
    assert found is not None
    assert (found.valid, found.generated, found.trusted) == (True, True, False)
    trusted = read(signed, kind, identity.chain)
    assert trusted is not None
    assert trusted.trusted
    assert b"a secret" not in signed
    assert b"1234abcd" in signed
    assert b"a secret" in dataclasses.replace(how, with_prompt=True).signed(data, kind, notes)
    assert read(data, kind) is None
    changed = bytearray(signed)
    changed[signed.index(data[len(data) // 2 :][:16])] ^= 1
    broken = read(bytes(changed), kind)
    assert broken is not None
    assert not broken.valid
    assert broken.problem


@pytest.mark.parametrize("suffix", [".gif", ".apng"])
def test_an_animation_is_marked_in_each_frame_and_signed_as_a_whole(
    suffix: str, identity: Identity, tmp_path: Path
) -> None:
    file, how = tmp_path / f"a{suffix}", Provenance(identity=identity)
    save_png(scene(2, 64), tmp_path / "before.png", {})
    frames = [scene(seed, 128) for seed in range(3)]
    save_animation(
        frames, file, {"version": "1"}, provenance=how, made_from=[tmp_path / "before.png"]
    )
    found = read(file.read_bytes(), "image/gif" if suffix == ".gif" else "image/png")
    assert found is not None
    assert (found.valid, found.generated) == (True, True)
    with Image.open(file) as moving:
        assert moving.n_frames == 3  # type: ignore[attr-defined]
        for number in range(3):
            moving.seek(number)
            assert find(moving.convert("RGB")).marked


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_manifest_is_judged_and_never_a_fault(kind: str, identity: Identity) -> None:
    random = Random(0)
    signed = Provenance(identity=identity).signed(encoded(scene(0, 64), kind), kind, {})
    start = signed.index(b"jumb") - 40
    for _ in range(60):
        damaged = bytearray(signed)
        for _ in range(random.choice((1, 3, 20))):
            damaged[random.randrange(start, len(damaged))] = random.randrange(256)
        found = read(bytes(damaged), kind)
        assert found is None or found.valid or found.problem
    assert read(signed[: len(signed) // 2], kind) != read(signed, kind)


def test_an_edit_has_its_image_as_ingredient(identity: Identity, tmp_path: Path) -> None:
    save_png(scene(1, 64), tmp_path / "secret-name.png", {})
    data = encoded(scene(0, 128), "image/png")
    for command in ("edit", "vary"):
        notes = {"command": [command, "--to", "a secret"]}
        signed = Provenance(identity=identity).signed(
            data, "image/png", notes, [tmp_path / "secret-name.png"]
        )
        found = read(signed, "image/png")
        assert found is not None
        assert found.valid
        assert found.generated
        assert b"secret" not in signed
        assert (b"parentOf" in signed) == (command == "edit")


def test_the_key_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    made = open_identity(file)
    assert file.stat().st_mode & 0o077 == 0
    assert open_identity(file) == made
    for text in ("", "no pem", made.chain, made.key):
        file.write_text(text)
        with pytest.raises(ValueError, match="PEM"):
            open_identity(file)


def encoded(image: Image.Image, kind: str) -> bytes:
    import io

    data = io.BytesIO()
    image.save(data, kind.removeprefix("image/"))
    return data.getvalue()
