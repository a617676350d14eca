"""Detector banks: what they read of a model, how they are fitted, what they say, and how they are kept."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import jaxtyping
import pytest
import timm
import torch
from attack_scene import RowByRow, random_states
from detection_scene import CLASSES, RECIPE, Watched, watched

from orchestrator.detection.examples import Examples, part_of, rows_of
from orchestrator.detection.fit import fit_bank
from orchestrator.detection.gather import Gather
from orchestrator.detection.measures import auroc
from orchestrator.detection.neurons import NeuronLayout, choose_layers, layout_of
from orchestrator.detection.proposals import propose
from orchestrator.detection.readout import Readout
from orchestrator.detection.recipe import BankRecipe
from orchestrator.detection.stored import BANK_FILE, BankRef, load_bank, save_bank
from orchestrator.errors import DamagedArtifact, DataError, NotCommitted, StudyError, WeightsError
from orchestrator.models.ref import ModelRef


@pytest.fixture
def scene() -> Watched:
    return watched()


@pytest.fixture(scope="module")
def bank():
    scene = watched()
    return fit_bank(scene.model, scene.fit(), scene.feed)


@contextmanager
def everything_noted(model, layout):
    """Every activation of the layers, as the whole matrix that nobody else keeps."""
    noted, hooks = {}, []
    for name in layout.layers:
        module = model.get_submodule(f"backbone.{name}")
        hooks.append(
            module.register_forward_hook(
                lambda _m, _g, out, name=name: noted.update({name: out.flatten(1)})
            )
        )
    yield lambda: torch.cat([noted[name] for name in layout.layers], dim=1)
    for hook in hooks:
        hook.remove()


def hooks_of(model):
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]


# Neurons.


def test_gathered_means_are_those_of_the_whole_activation_matrix_and_so_are_their_gradients(scene):
    images = scene.clean["test"].images[:5].requires_grad_()
    layout = layout_of(scene.model, images)
    members = propose(1, "m", "0", proposals=12, neurons=30, total=layout.total)
    with (
        Gather(layout, members).reading(scene.model) as values,
        everything_noted(scene.model, layout) as all_of,
    ):
        scene.model(images)
        gathered, wanted = values.means(), all_of()[:, members.long()].mean(dim=2)
    torch.testing.assert_close(gathered, wanted)
    weights = torch.linspace(-1, 1, 12)
    gradients = [
        torch.autograd.grad((side @ weights).sum(), images, retain_graph=True)[0]
        for side in (gathered, wanted)
    ]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def test_a_model_that_calls_its_layers_row_by_row_is_read_all_the_same(scene):
    images = scene.clean["test"].images[:5]
    layout = layout_of(scene.model, images)
    assert layout_of(RowByRow(scene.model), images) == layout
    gather = Gather(layout, propose(1, "m", "0", proposals=12, neurons=30, total=layout.total))
    found = []
    for model in (scene.model, RowByRow(scene.model)):
        with gather.reading(model) as values, torch.no_grad():
            model(images)
            found.append(values.means())
    torch.testing.assert_close(*found)


@pytest.fixture
def without_type_checks():
    # Beartype draws from `random` to pick the item of a list that it checks.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_type_checks")
def test_the_model_and_the_process_are_left_as_they_were_even_if_it_breaks_down(scene, bank):
    model = scene.model
    next(model.parameters()).requires_grad_(True)
    before = (hooks_of(model), [m.training for m in model.modules()], random_states())
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    bank.judge(model, scene.clean["test"].images[:3], rate=0.05)
    with pytest.raises(AssertionError, match="Input height"):
        bank.judge(model, scene.clean["test"].images[:3, :, :7, :7], rate=0.05)
    assert (hooks_of(model), [m.training for m in model.modules()], random_states()) == before
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    assert torch.is_grad_enabled()


def test_layers_are_chosen_by_the_family_by_name_or_by_pattern(scene):
    assert choose_layers(scene.model) == ("blocks.0", "blocks.1", "norm", "head")
    assert choose_layers(scene.model, ("head", "blocks.*.mlp")) == ("blocks.0.mlp", "blocks.1.mlp", "head")
    with torch.random.fork_rng():
        resnet = timm.create_model("resnet10t", num_classes=4).eval()
    assert choose_layers(resnet) == ("layer2", "layer3", "layer4", "fc")
    layout = layout_of(resnet, torch.zeros(1, 3, 64, 64))
    assert layout.shapes == ((128, 8, 8), (256, 4, 4), (512, 2, 2), (4,))
    assert layout.offsets == (0, 8192, 8192 + 4096, 8192 + 4096 + 2048)
    assert layout.total == layout.offsets[3] + 4
    assert NeuronLayout.from_recipe(layout.recipe) == layout


def test_inception_is_read_where_the_released_code_reads_it():
    with torch.random.fork_rng(), torch.device("meta"):
        inception = timm.create_model("inception_v3")
    assert choose_layers(inception) == ("Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "fc")


def test_a_layer_that_is_not_there_is_refused_with_a_sentence(scene):
    with pytest.raises(StudyError, match=r"No layer of this model is called blocks\.9"):
        choose_layers(scene.model, ("head", "blocks.9"))
    with pytest.raises(StudyError, match="Which layers of this model \\(Flatten\\) to read is not known"):
        choose_layers(torch.nn.Flatten())


# Fitting.


def test_a_bank_tells_attacked_images_it_never_saw_from_clean_ones(scene, bank):
    for rule in ("ratio", "shrunk-ratio"):
        verdicts = [
            bank.judge(scene.model, side["test"].images, rule=rule, rate=0.05, seed=1)
            for side in (scene.clean, scene.attacked)
        ]
        assert auroc(*(verdict.score for verdict in verdicts), resamples=100).low > 0.75
        assert verdicts[1].flag.sum() > 4 * verdicts[0].flag.sum()


def test_a_class_with_few_images_is_watched_by_the_pool_and_says_so(scene, bank):
    assert list(bank.notes) == ["2"]
    assert bank.notes["2"].endswith("attacked images to fit on, fewer than 8")
    assert bank.fingerprints.row_of.tolist() == [0, 1, 2, 2]


def test_clean_images_in_place_of_attacked_ones_fail_loudly(scene):
    clean = scene.clean["fit"]
    with pytest.raises(DataError, match="None of 120 attacked images is moved and misread"):
        fit_bank(
            scene.model, scene.fit(), replace(scene.feed, attacked=[replace(clean, originals=clean.images)])
        )
    right = scene.model(clean.images).argmax(dim=1) == clean.labels
    with pytest.raises(DataError, match="is moved and misread"):
        fit_bank(scene.model, scene.fit(), replace(scene.feed, attacked=[clean.part(right)]))
    # Labels that lie get as far as the activations.
    lies = Examples(clean.images[right], (clean.labels[right] + 1) % CLASSES)
    with pytest.raises(DataError, match="images are identical"):
        fit_bank(scene.model, scene.fit(), replace(scene.feed, attacked=[lies]))


def test_a_bank_that_nothing_survives_in_says_why(scene):
    with pytest.raises(DataError, match="none of its fingerprints tells clean from attacked"):
        fit_bank(scene.model, scene.fit(effect=50.0), scene.feed)
    with pytest.raises(DataError, match="held-out clean images"):
        fit_bank(scene.model, scene.fit(), replace(scene.feed, held_out=[]))


def test_where_the_pool_has_no_fingerprints_other_classes_go_on(scene):
    fit = scene.fit()
    proposed = fit.proposed()
    parts = [
        [fit.measure(scene.model, proposed, part, kind) for part in getattr(scene.feed, kind)]
        for kind in ("clean", "attacked")
    ]
    for measured in parts[1]:
        measured.moments.count[-1] = 0
    bank = fit.calibrated(scene.model, fit.chosen(proposed, *parts), scene.feed.held_out)
    assert bank.fingerprints.row_of.tolist() == [0, 1, -1, -1]
    assert sorted(bank.notes) == ["2", "pool"]
    verdict = bank.judge(scene.model, scene.clean["test"].images, rate=0.05)
    unwatched = verdict.classes == 2
    assert verdict.p_value[unwatched].tolist() == [1.0] * int(unwatched.sum())
    assert unwatched.any()
    assert not verdict.flag[unwatched].any()
    assert verdict.score[~unwatched].isfinite().all()


def tensors_of(bank):
    return [bank.fingerprints.members, bank.fingerprints.row_of, bank.kept, *[
        tensor for side in (bank.clean, bank.attacked) for tensor in (side.mean, side.std, side.correlation)
    ], *bank.calibration.scores.values()]  # fmt: skip


def test_a_bank_made_by_two_workers_is_the_one_made_by_one(scene, bank):
    fit, workers = scene.fit(), [scene.model, copy.deepcopy(scene.model)]

    def measure(fingerprints, products):
        return [
            [
                fit.measure(workers[place % 2], fingerprints, part, kind, products=products)
                for place, part in enumerate(getattr(scene.feed, kind))
            ]
            for kind in ("clean", "attacked")
        ]

    proposed = fit.proposed()
    made = fit.chosen(proposed, *measure(proposed, False))
    made = fit.correlated(made, *measure(made.fingerprints, True))
    parts = [
        made.read(worker, part.images) for worker, part in zip(workers, scene.feed.held_out, strict=True)
    ]
    assert len(parts) == 2
    made = fit.calibrated(workers[1], made, scene.feed.held_out)
    assert all(map(torch.equal, tensors_of(made), tensors_of(bank)))
    assert Readout.joined(parts).classes.shape == (120,)


# Judgement.


def test_a_verdict_depends_on_no_neighbour_no_order_and_no_split(scene, bank):
    images = scene.attacked["test"].images[:37]
    for rule in bank.rules:
        whole = bank.judge(scene.model, images, rule=rule, rate=0.05, seed=1)
        for size in (1, 7, 16):
            for start in range(0, 37, size):
                rows = range(start, min(start + size, 37))
                part = bank.judge(scene.model, images[rows], rule=rule, rate=0.05, seed=1, numbers=rows)
                assert torch.equal(part.score, whole.score[rows])
                assert torch.equal(part.flag, whole.flag[rows])
        order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
        mixed = bank.judge(scene.model, images[order], rule=rule, rate=0.05, seed=1, numbers=order.tolist())
        assert torch.equal(mixed.p_value, whole.p_value[order])


def test_draws_are_fresh_for_each_look_unless_seeded(scene, bank):
    images = scene.attacked["test"].images[:1].expand(20, -1, -1, -1)
    assert len(bank.judge(scene.model, images, rate=0.05, seed=1).score.unique()) > 5
    looks = [bank.judge(scene.model, images, rate=0.05).score for _ in range(2)]
    assert not torch.equal(*looks)
    none = bank.judge(scene.model, images[:0], rate=0.05)
    assert none.flag.shape == none.score.shape == none.p_value.shape == none.classes.shape == (0,)


def test_drawing_the_whole_bank_is_a_static_detector(scene, bank):
    held_out = bank.read(scene.model, scene.clean["held-out"].images)
    static = bank.with_draw(20, held_out, 40, 5)
    looks = [static.judge(scene.model, scene.attacked["test"].images, rate=0.05).score for _ in range(2)]
    torch.testing.assert_close(*looks, rtol=1e-12, atol=1e-9)
    with pytest.raises(StudyError, match="draw of 0 fingerprints"):
        bank.with_draw(0, held_out, 40, 5)


def test_a_bank_without_correlations_refuses_the_rule_that_needs_them(scene):
    plain = fit_bank(scene.model, scene.fit(covariance=False), scene.feed)
    assert plain.rules == ("ratio", "vote", "anomaly")
    with pytest.raises(StudyError, match="Rule shrunk-ratio needs correlations"):
        plain.judge(scene.model, scene.clean["test"].images[:2], rule="shrunk-ratio", rate=0.05)


def test_a_bank_of_another_model_is_refused_with_a_sentence(scene, bank):
    with torch.random.fork_rng():
        other = timm.create_model("resnet10t", num_classes=CLASSES).eval()
        more = timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=8,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=5,
        ).eval()
    images = scene.clean["test"].images[:2]
    with pytest.raises(WeightsError, match=r"This model has no layer blocks\.0, which its detector reads"):
        bank.judge(other, images, rate=0.05)
    with pytest.raises(
        WeightsError, match=r"Layer head gives \(5,\) for an image, and its detector reads \(3,\)"
    ):
        bank.judge(more, images, rate=0.05)


def test_a_bank_knows_its_model_from_another_of_the_same_shape(scene, bank, store):
    kept = ref(scene.fit())
    save_bank(store, kept, bank, {})
    images = scene.clean["test"].images[:4]
    other = watched().model
    with torch.no_grad():
        list(other.parameters())[-1].add_(torch.arange(CLASSES))
    for known in (bank, load_bank(store, kept)):
        known.judge(scene.model, images, rate=0.05)
        known.judge(watched().model, images, rate=0.05)  # the same weights in other memory
        with pytest.raises(WeightsError, match="fitted to another model"):
            known.judge(other, images, rate=0.05)


# What is kept.


def ref(fit, **changes):
    model = ModelRef(name="k-a", method="full", slot=0, recipe={"weights": 1})
    known = {"model": model, "settings": fit.recipe, "seed": 5}
    return BankRef(**{**known, "images": {"shards/eval/00000": "digest"}, **changes})


def test_a_stored_bank_says_what_the_fitted_one_says(scene, bank, store):
    kept = ref(scene.fit())
    assert kept.address == f"detectors/k-a.full/{kept.digest[:8]}"
    assert save_bank(store, kept, bank, {"seconds": 1.0})
    assert not save_bank(store, kept, bank, {"seconds": 2.0})
    loaded = load_bank(store, kept)
    assert all(map(torch.equal, tensors_of(loaded), tensors_of(bank)))
    assert loaded.notes == bank.notes
    verdicts = [each.judge(scene.model, scene.attacked["test"].images, seed=1) for each in (loaded, bank)]
    assert torch.equal(*(verdict.p_value for verdict in verdicts))
    assert store.record(kept.address).parents == {"models/k-a/full": kept.model.digest}


@pytest.mark.parametrize("changes", [{"images": {}}, {"seed": 6}, {"settings": BankRecipe()}])
def test_a_bank_made_otherwise_is_another_one(scene, bank, store, changes):
    kept = ref(scene.fit())
    save_bank(store, kept, bank, {})
    with pytest.raises(NotCommitted, match=r"detectors/k-a\.full"):
        load_bank(store, replace(kept, **changes))


def test_a_file_that_is_no_bank_is_damaged(scene, bank, store):
    broken = replace(bank, fingerprints=replace(bank.fingerprints, members=bank.fingerprints.members + 999))
    save_bank(store, ref(scene.fit()), broken, {})
    with pytest.raises(DamagedArtifact, match=r"detectors/k-a\.full/\w+ is not a detector bank"):
        load_bank(store, ref(scene.fit()))


def test_bytes_of_a_class_are_as_foretold_and_a_thousand_classes_fit_a_laptop(scene, bank, store):
    save_bank(store, ref(scene.fit()), bank, {})
    rows, overhead = len(bank.kept), 16_384  # thresholds and the file's own header
    size = len(store.read(ref(scene.fit()).address, BANK_FILE))
    assert rows * RECIPE.state_bytes() < size < rows * RECIPE.state_bytes() + overhead
    large = BankRecipe(neurons=50, kept=300)
    assert 1001 * large.state_bytes() < 800e6
    assert 1001 * replace(large, covariance=False, rule="ratio").state_bytes() < 75e6


def test_images_go_where_their_names_say(scene):
    names = [f"image-{number}" for number in range(2000)]
    parts = {part: rows_of(names, part, 3) for part in ("fit", "held-out", "test")}
    assert sorted(row for rows in parts.values() for row in rows) == list(range(2000))
    assert [round(len(rows) / 2000, 1) for rows in parts.values()] == [0.5, 0.3, 0.2]
    assert {part_of(name, 3) for name in names if part_of(name, 4) == "test"} == set(parts)
