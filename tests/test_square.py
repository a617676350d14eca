"""Square held to its authors query by query, given our draws, and to the paper's windows."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from attack_scene import THREATS, Recorder, RowByRow, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.square import SquareAttack
from torch import nn

from orchestrator.attacks.attack import Points
from orchestrator.attacks.noise import reseeded, uniform
from orchestrator.attacks.patience import PATIENCE, hopeless
from orchestrator.attacks.query.square import Square
from orchestrator.attacks.query.windows import Window, bump, halvings, window_sides
from orchestrator.attacks.source import Source
from orchestrator.attacks.threat import Threat, check_threat
from orchestrator.errors import StudyError

# Wide enough for a few hundred queries to break some images.
EUCLIDEAN = {name: Threat(name, 6 * THREATS[name].epsilon) for name in ("linf", "l2")}
each_threat = pytest.mark.parametrize("threat", EUCLIDEAN.values(), ids=EUCLIDEAN)


class OurDraws(SquareAttack):
    """The authors' attack on one image, with the numbers that ours draws for it."""

    def given(self, seed, tiles):
        seed = torch.tensor([seed])
        self.first = uniform(seed, 0, *((3, 1, 16) if self.norm == "Linf" else (4, 5, 5)))[0]
        self.tiles, self.seed_now, self.tile = tiles, reseeded(seed, 0), 0
        self.draw_next()
        return self

    def draw_next(self):
        self.draw = uniform(self.seed_now, 0, 8)[0]
        self.seed_now = reseeded(self.seed_now, 0)
        self.positions = iter(self.draw[3:7])

    def random_int(self, low=0, high=1, shape=(1,)):
        return (next(self.positions) * (high - low + 1)).long()

    def random_choice(self, shape):
        if self.norm == "Linf" and len(shape) == 4:
            return (2 * (self.first >= 0.5).double() - 1)[None]
        if self.norm == "L2" and self.tile <= self.tiles:
            down, right = divmod(self.tile - 1, 5)
            numbers = self.first[:3, down, right]
            return (2 * (numbers >= 0.5).double() - 1)[None, :, None, None]
        signs = 2 * (self.draw[:3] >= 0.5).double() - 1
        return signs.view(shape)

    def eta(self, s):
        turned = self.draw[7] > 0.5
        if self.tile < self.tiles:
            turned = self.first[3, self.tile // 5, self.tile % 5] > 0.5
        self.tile += 1
        halves = torch.cat([self.eta_rectangles(s // 2, s), -self.eta_rectangles(s - s // 2, s)])
        halves = halves / halves.norm()
        return halves.T if turned else halves

    def margin_and_loss(self, x, y):
        answer = super().margin_and_loss(x, y)
        if self.counted:
            self.draw_next()
        self.counted = True
        return answer

    counted = False


@pytest.fixture
def without_type_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def bent(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 3, 16, 16, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 24), nn.Tanh(), nn.Linear(24, 5))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        labels = net(images).argmax(dim=1)
    return net, Points.of(images, labels, range(40, 46))


@each_threat
@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.usefixtures("double_by_default", "without_type_checks")
def test_square_shows_every_image_the_authors_show(threat, batch):
    net, points = bent(seed=5)
    queries = 230
    theirs = []
    for place in range(6):
        author = Recorder(net)
        attack = OurDraws(
            author,
            norm=threat.norm.replace("l", "L", 1),
            eps=threat.epsilon,
            n_queries=queries,
            resc_schedule=False,
            device="cpu",
        )
        attack.given(40 + place, tiles=0 if threat.norm == "linf" else 25)
        attack.init_hyperparam(points.images[:1])
        attack.attack_single_run(points.images[place : place + 1], points.labels[place : place + 1])
        theirs.append(torch.cat(author.shown))
    ours = [[] for _ in range(6)]

    class Watching(Source):
        def logits(self, shown, rows):
            for image, row in zip(shown, rows.tolist(), strict=True):
                ours[row].append(image)
            return super().logits(shown, rows)

    Square(queries=queries)(Watching([net], 6, batch=batch), points, threat)
    ours = [torch.stack(shown) for shown in ours]
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-9)
    lengths = [len(shown) for shown in ours]
    assert max(lengths) == queries + 1
    assert min(lengths) < queries, "this scene is meant to have images that fall"


@each_threat
@pytest.mark.usefixtures("without_type_checks")
def test_square_answers_the_misread_image_it_showed_last_and_nothing_more_is_asked(threat):
    here = scene(n=24).behind(Recorder)
    source = here.source(Square())
    found = Square(queries=250, rescaled=True)(source, here.points(), threat)
    fallen = here.fallen(found.worst)
    assert fallen.sum() > 6
    assert (source.forwards[fallen] < 251).any()
    assert (source.forwards[~fallen] == 251).all()
    # Who goes on past the first misread image finds one of higher loss.
    further = here.struck(Square(queries=250, rescaled=True, early=False), threat)
    assert torch.equal(here.fallen(further.worst), fallen)
    losses = [nn.functional.cross_entropy(here.model(f.worst), here.labels) for f in (found, further)]
    assert losses[1] > losses[0]


@each_threat
@pytest.mark.parametrize("batch", [64, 5])
@pytest.mark.usefixtures("without_type_checks")
def test_late_windows_tried_eight_at_a_time_give_the_same_answer_and_cost_in_any_batch(threat, batch):
    narrow = replace(threat, epsilon=threat.epsilon / 12)
    here, attack = scene(n=4).behind(RowByRow), Square(queries=300, rescaled=True, abreast=8)
    together = here.source()
    found = attack(together, here.points(), narrow)
    assert (together.forwards == 301).all()
    for row in range(4):
        alone = here.of([row]).behind(Recorder)
        source = alone.source(batch=batch)
        again = attack(source, alone.points(), narrow)
        assert torch.equal(again.best[0], found.best[row])
        assert torch.equal(again.worst[0], found.worst[row])
        assert source.forwards.item() == 301
        late = [8] * 5 + [5] if batch == 64 else [5, 3] * 5 + [5]
        assert [len(shown) for shown in alone.model.shown] == [1] * 256 + late


@pytest.mark.parametrize("abreast", [1, 8])
@pytest.mark.usefixtures("without_type_checks")
def test_square_gives_up_what_stands_still_and_nothing_it_would_break(abreast):
    here, threat = scene(n=24), Threat("linf", 8 / 255)
    whole, less = here.source(), here.source()
    square = Square(queries=2500, rescaled=True, abreast=abreast)
    broken = here.fallen(square(whole, here.points(), threat).worst)
    attack = replace(square, give_up=True)
    assert torch.equal(here.fallen(attack(less, here.points(), threat).worst), broken)
    assert broken.sum() > 6
    assert torch.equal(less.forwards[broken], whole.forwards[broken])
    nearly_nothing = replace(threat, epsilon=1e-9)
    flat = here.behind(lambda net: nn.Sequential(net, _ToWhole()))
    source = flat.source()
    attack(source, flat.points(), nearly_nothing)
    assert (source.forwards == 512).all()


class _ToWhole(nn.Module):
    def forward(self, logits):
        return logits.round()


def test_square_refuses_as_many_windows_abreast_as_would_pass_its_reviews_by():
    for wrong in (3, 512):
        with pytest.raises(StudyError, match="power of two up to 256"):
            Square(abreast=wrong)


@given(
    missing=st.floats(0.01, 100),
    gain=st.floats(0, 100),
    spent=st.integers(2, 900),
)
@settings(max_examples=50, deadline=None)
def test_a_search_is_hopeless_where_a_multiple_of_its_pace_does_not_arrive(missing, gain, spent):
    row = [torch.tensor([value], dtype=torch.float64) for value in (missing, missing + gain)]
    pace = (row[1] - row[0]).item() / (spent / 2)
    arrives = missing <= PATIENCE * pace * (1000 - spent)
    assert hopeless(*row, torch.tensor([spent]), 1000).item() == (not arrives)


def test_a_search_of_unknown_pace_is_never_hopeless():
    unknown = torch.tensor([float("inf")], dtype=torch.float64)
    for missing in (unknown, torch.zeros_like(unknown) + 5):
        assert not hopeless(missing, unknown, torch.tensor([16]), 100).any()


# The paper's windows.


def test_a_bump_has_length_one_and_two_sides_of_opposite_sign():
    for side in (3, 5, 9, 31):
        values = bump(side)
        assert values.norm().item() == pytest.approx(1)
        assert (values[: side // 2] > 0).all()
        assert (values[side // 2 :] < 0).all()
        assert values[: side // 2].argmax() == (side // 4) * side + side // 2
        assert torch.equal(values[:, : side // 2], values.flip(1)[:, : side // 2])


@given(
    side=st.integers(1, 12),
    height=st.integers(12, 20),
    width=st.integers(12, 20),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=40, deadline=None)
def test_windows_lie_inside_the_image_and_reach_every_border(side, height, width, seed):
    places = uniform(torch.tensor([seed]), 0, 400, 2)[0]
    window = Window.at(places, torch.full((400,), side), height, width)
    mask = window.mask(height, width)[:, 0]
    assert (mask.sum(dim=(1, 2)) == side**2).all()
    assert mask.any(dim=0).any(dim=1).all()
    assert mask.any(dim=0).any(dim=0).all()


def test_windows_shrink_as_the_paper_says():
    at = torch.tensor([0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999])
    assert halvings(at).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert window_sides(32, 32, 0.8, bumpy=False) == (29, 20, 14, 10, 7, 5, 4, 3, 2, 1)
    assert window_sides(32, 32, 0.8, bumpy=True) == (29, 21, 15, 11, 7, 5, 5, 3, 3, 3)
    assert window_sides(2, 9, 1.0, bumpy=True)[0] == 2


@each_threat
@pytest.mark.parametrize("size", [(3, 7), (24, 24), (17, 40)])
def test_square_plays_on_images_of_any_size(threat, size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 4)).double()
    labels = net(images).argmax(dim=1)
    found = Square(queries=70)(Source([net], 2), Points.of(images, labels, [1, 2]), threat)
    check_threat(found.best, images, threat)
    assert (found.best != images).any()
