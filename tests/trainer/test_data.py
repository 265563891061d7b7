"""Training data: what is wrong with a folder is said with the file's name, and batches depend on nothing hidden."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from cdal_sdk.errors import TrainingError, UsageError
from cdal_trainer.batches import SliceBatches
from cdal_trainer.cases import decathlon_cases, labelled_cases
from cdal_trainer.prepared import PreparedCase, prepare_case
from cdal_trainer.recipe import Augmentation
from trainer.conftest import AFFINE, GRID, PLAIN, write_case


def prepared(data: Path, recipe, name: str = "one") -> PreparedCase:
    (case,) = (case for case in decathlon_cases(data) if case.name == name)
    return prepare_case(case, recipe.plan, {1, 2})


def refusal(action: Callable[[], object], *named: object) -> str:
    with pytest.raises((TrainingError, UsageError)) as caught:
        action()
    for name in named:
        assert str(name) in str(caught.value)
    return str(caught.value)


class TestFolder:
    def test_cases_are_listed_in_order(self, data):
        cases = decathlon_cases(data)
        assert [case.name for case in cases] == ["one", "two", "three"]
        assert cases[1].label == data / "labelsTr/two.nii.gz"

    def test_a_missing_index_is_named(self, tmp_path):
        refusal(lambda: decathlon_cases(tmp_path), tmp_path / "dataset.json", "Decathlon")

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"training": [1]}', '{"training": [{"image": "a"}]}', "\xff"])
    def test_an_unusable_index_is_named(self, data, text):
        (data / "dataset.json").write_text(text, encoding="latin-1")
        refusal(lambda: decathlon_cases(data), data / "dataset.json", "lists no 'training'")

    def test_an_index_may_begin_with_a_byte_order_mark(self, data):
        index = data / "dataset.json"
        index.write_text(index.read_text(), encoding="utf-8-sig")
        assert len(decathlon_cases(data)) == 3

    def test_an_empty_index_is_refused(self, data):
        (data / "dataset.json").write_text('{"training": []}')
        refusal(lambda: decathlon_cases(data), "lists no cases")

    @pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
    def test_a_missing_file_is_named(self, data, part):
        (data / part / "two.nii.gz").unlink()
        refusal(lambda: decathlon_cases(data), data / part / "two.nii.gz", "does not exist")

    def test_two_cases_of_one_name_are_refused(self, data):
        index = json.loads((data / "dataset.json").read_text())
        index["training"].append(index["training"][0])
        (data / "dataset.json").write_text(json.dumps(index))
        refusal(lambda: decathlon_cases(data), "two cases named 'one'")


class TestPairs:
    def test_images_find_their_masks_by_name(self, pictures):
        cases = labelled_cases(pictures)
        assert [case.name for case in cases] == ["a1", "a2", "b1"]
        assert [case.label.name for case in cases] == ["a1.png", "a2_mask.png", "b1.png"]
        assert [case.name for case in labelled_cases(pictures, "a*")] == ["a1", "a2"]

    @pytest.mark.parametrize(("image", "mask"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_accented_letters_match_however_they_are_stored(self, pictures, image, mask):
        """The case keeps its name, since its fold rests on it."""
        names = {form: unicodedata.normalize(form, "Jürgen") for form in (image, mask)}
        (pictures / "images/a2.png").rename(pictures / f"images/{names[image]}.png")
        (pictures / "masks/a2_mask.png").rename(pictures / f"masks/{names[mask]}_mask.png")
        assert names[image] in [case.name for case in labelled_cases(pictures)]

    def test_a_pattern_that_fits_nothing_is_named(self, pictures):
        refusal(lambda: labelled_cases(pictures, "c*"), pictures, "none of its 3 cases", "'c*'")

    def test_an_image_without_mask_is_named(self, pictures):
        (pictures / "masks/b1.png").unlink()
        refusal(lambda: labelled_cases(pictures), pictures / "images/b1.png", "has no mask")

    def test_a_mask_without_image_is_named(self, pictures):
        (pictures / "images/a2.png").unlink()
        refusal(lambda: labelled_cases(pictures), pictures / "masks/a2_mask.png", "has no image")

    @pytest.mark.parametrize("part", ["images", "masks"])
    def test_a_missing_folder_is_named(self, pictures, part):
        shutil.rmtree(pictures / part)
        refusal(lambda: labelled_cases(pictures), pictures / part, "'images' and 'masks'")

    def test_an_empty_folder_is_named(self, tmp_path):
        (tmp_path / "images").mkdir()
        (tmp_path / "masks").mkdir()
        refusal(lambda: labelled_cases(tmp_path), tmp_path / "images", "holds no images")

    @pytest.mark.parametrize("part", ["images", "masks"])
    @pytest.mark.parametrize("name", ["c1.bmp", "c1.nrrd", "IM0001", "more/", "c1.png/"])
    def test_what_is_no_image_is_named(self, pictures, part, name):
        path = pictures / part / name
        path.mkdir() if name.endswith("/") else path.touch()
        refusal(lambda: labelled_cases(pictures), path, "no NIfTI, PNG, JPEG or TIFF file")

    def test_notes_and_hidden_files_may_lie_among_the_images(self, pictures):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "README", "ages.CSV", "notes.txt", "info.json"):
            (pictures / "images" / name).touch()
        (pictures / "images/@eaDir").mkdir()
        assert [case.name for case in labelled_cases(pictures)] == ["a1", "a2", "b1"]

    def test_one_name_in_two_formats_is_refused(self, pictures):
        (pictures / "images/b1.jpg").write_bytes(b"")
        refusal(lambda: labelled_cases(pictures), "two cases named 'b1'")

    def test_one_name_in_two_spellings_is_refused(self, pictures):
        shutil.copy(pictures / "masks/b1.png", pictures / "masks/é.png")
        for form in ("NFC", "NFD"):
            shutil.copy(pictures / "images/b1.png", pictures / f"images/{unicodedata.normalize(form, 'é')}.png")
        refusal(lambda: labelled_cases(pictures), "two cases named 'é'")


class TestPicture:
    def test_white_stands_for_the_only_label(self, pictures, planar_recipe):
        case = prepare_case(labelled_cases(pictures)[0], planar_recipe.plan, {1})
        assert case.images.shape == (1, 1, 16, 16)
        assert case.labels.shape == (1, 16, 16)
        assert set(np.unique(case.labels)) == {0, 1}
        assert case.images[0, 0][case.labels[0] == 1].min() > case.images[0, 0][case.labels[0] == 0].max()

    def test_a_smaller_grid_gives_each_pixel_its_largest_share(self, pictures, planar_recipe):
        """A checkerboard of 5 white pixels in 9 is white at a third of the resolution; nearest would alternate."""
        board = np.tile([[1, 0, 1], [0, 1, 0], [1, 0, 1]], (16, 16)).astype(np.uint8)
        Image.fromarray(255 * board).save(pictures / "masks/a1.png")
        Image.fromarray(200 * board).save(pictures / "images/a1.png")
        case = prepare_case(labelled_cases(pictures)[0], planar_recipe.plan, {1})
        assert case.labels.all()

    def test_a_mask_of_another_size_is_named(self, pictures, planar_recipe):
        Image.new("L", (32, 33)).save(pictures / "masks/a1.png")
        case = labelled_cases(pictures)[0]
        refusal(lambda: prepare_case(case, planar_recipe.plan, {1}), pictures / "masks/a1.png", "(33, 32, 1)")

    def test_a_gray_value_that_is_no_label_is_named(self, pictures, planar_recipe):
        Image.new("L", (32, 32), 128).save(pictures / "masks/a1.png")
        case = labelled_cases(pictures)[0]
        refusal(lambda: prepare_case(case, planar_recipe.plan, {1}), pictures / "masks/a1.png", "the value 128")

    def test_a_coloured_mask_is_named(self, pictures, planar_recipe):
        Image.new("RGB", (32, 32), (255, 0, 0)).save(pictures / "masks/a1.png")
        case = labelled_cases(pictures)[0]
        refusal(lambda: prepare_case(case, planar_recipe.plan, {1}), pictures / "masks/a1.png", "colour picture")

    def test_a_mask_in_the_alpha_channel_is_named(self, pictures, planar_recipe):
        """White everywhere, and the label where it is opaque: read without alpha, all of it would be label."""
        mask = Image.new("RGBA", (32, 32), (255, 255, 255, 255))
        mask.save(pictures / "masks/a1.png")
        case = labelled_cases(pictures)[0]
        assert prepare_case(case, planar_recipe.plan, {1}).labels.all(), "opaque, it is what it shows"
        mask.putalpha(Image.fromarray(np.eye(32, dtype=np.uint8) * 255))
        mask.save(pictures / "masks/a1.png")
        refusal(lambda: prepare_case(case, planar_recipe.plan, {1}), pictures / "masks/a1.png", "transparent in places")

    @pytest.mark.parametrize("part", ["images", "masks"])
    def test_a_damaged_picture_is_named(self, pictures, planar_recipe, part):
        path = pictures / part / "a1.png"
        path.write_bytes(path.read_bytes()[:60])
        case = labelled_cases(pictures)[0]
        refusal(lambda: prepare_case(case, planar_recipe.plan, {1}), path)


class TestCase:
    def test_labels_lie_on_their_image(self, data, recipe):
        """From LSA voxels to RAS slices, padded at the far edges: the labels are where the image is bright."""
        case = prepared(data, recipe)
        assert case.images.shape == (8, 3, 20, 12)
        assert case.labels.shape == (8, 20, 12)
        assert set(np.unique(case.labels)) == {0, 1, 2}
        middle = case.images[:, 1]
        for value in (1, 2):
            assert middle[case.labels == value].mean() > middle[case.labels == value - 1].mean() + 0.2

    def test_labels_follow_a_resampled_image(self, data, recipe):
        plan = replace(recipe.plan, spacing_mm=(0.5, 1.0, 0.5), canvas=(48, 48), divisor=16)
        case = prepared(data, replace(recipe, plan=plan))
        assert case.images.shape[2:] == case.labels.shape[1:] == (48, 16)
        assert len(case.labels) == 16
        share = (case.labels > 0).sum() / (40 * 12 * 16)
        assert share == pytest.approx(8 * 4 * 7 / np.prod(GRID), rel=0.01)
        middle = case.images[:, 1]
        assert middle[case.labels == 2].mean() > middle[(case.labels == 0) & (middle > 0)].mean() + 0.3

    def test_a_label_map_on_another_grid_is_named(self, data, recipe):
        write_case(data, "one", label=np.zeros((20, 8, 13), np.uint8))
        refusal(lambda: prepared(data, recipe), data / "labelsTr/one.nii.gz", "(20, 8, 13)", GRID)

    def test_a_label_map_elsewhere_is_named(self, data, recipe):
        moved = AFFINE.copy()
        moved[0, 3] += 2
        write_case(data, "one", affine=moved)
        refusal(lambda: prepared(data, recipe), data / "labelsTr/one.nii.gz", "lies elsewhere")

    @pytest.mark.parametrize("value", [3, 0.5])
    def test_a_value_that_is_no_label_is_named(self, data, recipe, value):
        label = np.zeros(GRID, np.float32)
        label[0, 0, 0] = value
        write_case(data, "one", label=label)
        refusal(lambda: prepared(data, recipe), data / "labelsTr/one.nii.gz", f"the value {value}")

    @pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
    def test_a_damaged_file_is_named(self, data, recipe, part):
        path = data / part / "one.nii.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400]))
        refusal(lambda: prepared(data, recipe), path)

    @pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
    def test_several_volumes_are_refused_without_an_option_that_training_lacks(self, data, recipe, part):
        path = data / part / "one.nii.gz"
        nibabel.Nifti1Image(np.zeros((*GRID, 2), np.float32), AFFINE).to_filename(path)
        said = refusal(lambda: prepared(data, recipe), path, "more than one volume", "a file of its own")
        assert "--volume" not in said

    def test_a_case_larger_than_the_canvas_is_named(self, data, recipe):
        small = replace(recipe, plan=replace(recipe.plan, canvas=(8, 8)))
        refusal(lambda: prepared(data, small), data / "imagesTr/one.nii.gz", "(20, 12)", "canvas (8, 8)")

    def test_other_channels_are_refused(self, data, recipe):
        network = replace(recipe.network, image_channels=9)
        colour = replace(recipe, plan=replace(recipe.plan, channels=3), network=network)
        refusal(lambda: prepared(data, colour), "the image is gray")


class TestBatches:
    @pytest.fixture
    def cases(self, data, recipe) -> list[PreparedCase]:
        return [prepared(data, recipe, name) for name in ("one", "two", "three")]

    def test_shape_and_type(self, cases, recipe):
        images, labels = SliceBatches(cases, recipe)[0]
        assert (images.shape, images.dtype) == ((2, 3, 16, 16), torch.float32)
        assert (labels.shape, labels.dtype) == ((2, 16, 16), torch.uint8)
        assert len(SliceBatches(cases, recipe)) == 6

    def test_a_batch_is_a_function_of_seed_rank_and_step(self, cases, recipe):
        first, again = SliceBatches(cases, recipe), SliceBatches(cases, recipe)
        np.random.seed(1)  # noqa: NPY002 - what must not matter
        random.seed(1)
        torch.manual_seed(1)
        expected = [again[step] for step in (4, 0, 2)]
        for step, (images, labels) in zip((4, 0, 2), expected, strict=True):
            assert torch.equal(first[step][0], images)
            assert torch.equal(first[step][1], labels)

    def test_any_other_seed_rank_or_step_gives_another(self, cases, recipe):
        other_seed = replace(recipe, optimisation=replace(recipe.optimisation, seed=1))
        images = [
            SliceBatches(cases, recipe)[0][0],
            SliceBatches(cases, recipe)[1][0],
            SliceBatches(cases, recipe, rank=1)[0][0],
            SliceBatches(cases, other_seed)[0][0],
        ]
        for i, image in enumerate(images):
            assert not any(torch.equal(image, other) for other in images[i + 1 :])

    def test_images_and_labels_are_cut_from_the_same_place(self, cases, recipe):
        plain = replace(recipe, augmentation=PLAIN)
        batches = map(SliceBatches(cases, plain).__getitem__, range(6))
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        slices = {}
        for case in cases:
            for image, label in zip(case.images, case.labels, strict=True):
                slices.update({image[:, r : r + 16].tobytes(): label[r : r + 16] for r in range(5)})
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            expected = slices[np.ascontiguousarray(image[:, :, :12]).tobytes()]
            np.testing.assert_array_equal(label[:, :12], expected)
            assert not label[:, 12:].any()  # padded at the far edge
            assert not image[:, :, 12:].any()

    def test_augmentation_ends_where_the_recipe_says(self, cases, recipe):
        """The same slices come, changed in the first half of the steps and as they are from there on; flips go on."""
        ending, plain, flips = (
            SliceBatches(cases, replace(recipe, augmentation=augmentation))
            for augmentation in (Augmentation(until=0.5, noise=1, flip=1), PLAIN, Augmentation(flip=1))
        )
        for step in range(recipe.optimisation.steps):
            late = step >= recipe.optimisation.steps / 2
            assert torch.equal(ending[step][0], flips[step][0]) == late
            assert not torch.equal(ending[step][0], plain[step][0])

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_share_of_slices_with_a_label(self, cases, recipe, share):
        """Slices without one are every second here; a share of 1 never draws them."""
        settings = replace(recipe.data, foreground_share=share)
        big = replace(recipe.optimisation, batch=40)
        batches = SliceBatches(cases, replace(recipe, augmentation=PLAIN, data=settings, optimisation=big))
        found = batches[0][1].flatten(1).any(dim=1).float().mean()
        assert found == 1 if share else 0.2 < found < 0.8

    def test_no_label_anywhere_is_refused(self, cases, recipe):
        empty = [replace(case, labels=np.zeros_like(case.labels)) for case in cases]
        refusal(lambda: SliceBatches(empty, recipe), "no training case holds any label")
