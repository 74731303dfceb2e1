"""Distillation as a loss and as a loop: the algebra, features by name, and what goes wrong."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxquant
from fxquant.errors import FxQuantError
from support.asserts import fingerprint
from support.training import labels, net, pictures, qat

DATA = [(pictures(16, index), labels()) for index in range(4)]


class Branched(nn.Module):
    """A container whose output is a function's, and a module with a tuple."""

    def __init__(self):
        super().__init__()
        self.block, self.rnn, self.head = Block(), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        steps, _ = self.rnn(self.block(x))
        return self.head(steps[:, -1])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.a(x)) + self.b(x)


def branched(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Branched().eval(), torch.rand(6, 3, 8, generator=torch.Generator().manual_seed(seed))


def refused(code, call, *parts):
    with pytest.raises(FxQuantError) as told:
        call()
    assert told.value.code == code, told.value
    for part in parts:
        assert part in str(told.value), str(told.value)


# The loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_is_the_formula(temperature, alpha):
    teacher, student = net(0), net(1)
    loss = fxquant.Distillation(teacher, temperature, alpha)(student, pictures(), labels())
    with torch.no_grad():
        theirs, ours = teacher(pictures()), student(pictures())
    p = torch.softmax(theirs / temperature, 1)
    soft = (p * (p.log() - torch.log_softmax(ours / temperature, 1))).sum(1).mean() * temperature**2
    torch.testing.assert_close(loss.detach(), alpha * soft + (1 - alpha) * F.cross_entropy(ours, labels()))


def test_a_student_that_is_a_copy_of_its_teacher_has_nothing_to_learn():
    teacher = net()
    loss = fxquant.Distillation(teacher)(copy.deepcopy(teacher), pictures())
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)


def test_at_high_temperature_the_gradient_is_that_of_matching_logits():
    """Hinton et al. 2015, section 2.1: for large T, dC/dz_i = (z_i - v_i) / N for logits of zero mean, times T² / T²."""
    torch.manual_seed(0)
    logits = torch.randn(5, 10)
    student, teacher = nn.Sequential(nn.Identity()), nn.Sequential(nn.Linear(10, 10))
    given = logits.clone().requires_grad_()
    fxquant.Distillation(teacher, temperature=1e3)(student, given).backward()
    with torch.no_grad():
        wanted = (logits - logits.mean(1, keepdim=True)) - (teacher(logits) - teacher(logits).mean(1, keepdim=True))
    torch.testing.assert_close(given.grad, wanted / 10 / 5, rtol=0.05, atol=2e-3)


def test_the_teacher_is_a_frozen_copy_and_stays_as_it_was():
    teacher = net().train()
    before = fingerprint(teacher)
    loss = fxquant.Distillation(teacher, features={"5": 0.1})
    loss(net(1), pictures(), labels()).backward()
    assert fingerprint(teacher) == before and all(parameter.grad is None for parameter in teacher.parameters())
    assert not loss.teacher.training and not any(p.requires_grad for p in loss.teacher.parameters())


def test_logits_inside_an_output_are_taken_out():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return {"logits": self.inner(x)}

    plain = fxquant.Distillation(net(0))(net(1), pictures())
    inside = fxquant.Distillation(Wrapped(net(0)), logits=lambda out: out["logits"])(Wrapped(net(1)), pictures())
    assert torch.equal(plain, inside)
    refused("FXQ127", lambda: fxquant.Distillation(Wrapped(net(0)))(Wrapped(net(1)), pictures()), "dict", "logits=")


def test_classes_may_stand_elsewhere_than_last():
    teacher, student = (nn.Sequential(nn.Conv2d(1, 3, 1)).eval() for _ in range(2))
    maps = torch.randint(0, 3, (16, 8, 8))
    found = fxquant.Distillation(teacher, alpha=0.0, class_dim=1)(student, pictures(), maps)
    torch.testing.assert_close(found, F.cross_entropy(student(pictures()), maps))


# Features -----------------------------------------------------------------------------------------------------------


def test_features_of_plain_modules_are_their_outputs():
    teacher, student = net(0), net(1)
    with_features = fxquant.Distillation(teacher, features={"2": 2.0})(student, pictures())
    without = fxquant.Distillation(teacher)(student, pictures())
    with torch.no_grad():
        apart = F.mse_loss(student[:3](pictures()), teacher[:3](pictures()))
    torch.testing.assert_close(with_features - without, 2 * apart)
    assert not student[2]._forward_hooks


def test_a_qat_model_has_the_features_of_the_users_modules():
    teacher = net()
    student = qat(teacher)
    loss = fxquant.Distillation(teacher, features={"2": 1.0, "5": 1.0})(student.train(), pictures())
    loss.backward()
    assert float(loss.detach()) > 0 and student.steps == 1


def test_a_feature_of_a_qat_model_is_the_value_before_its_rounding():
    teacher = net()
    student = qat(teacher, policy="int8-weight-only")
    taps = fxquant.Distillation(teacher, features={"2": 1.0})._taps(student)
    _, values = taps((pictures(),), {})
    torch.testing.assert_close(values["2"], teacher[:3](pictures()), rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["0", "1"])
def test_a_name_that_was_fused_says_where_its_value_is_now(name):
    teacher = net()
    loss = fxquant.Distillation(teacher, features={name: 1.0})
    refused(
        "FXQ128", lambda: loss(qat(teacher), pictures()), f"'{name}' of the student", "that of '2' is there", "name '2'"
    )


def test_containers_functions_and_tuples_have_features_too():
    teacher, x = branched()
    student = fxquant.compile(branched(1)[0], "int8", mode="qat", calibration_data=[x])
    names = {"block": 1.0, "block.b": 1.0, "rnn": 1.0}
    assert fxquant.Distillation(teacher, features=names)(student.train(), x) > 0
    trained = fxquant.compress(teacher, [])
    found = fxquant.Distillation(teacher, features=names)(trained, x)
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-9)


def test_names_that_are_none():
    teacher = net()
    refused("FXQ128", lambda: fxquant.Distillation(teacher, features={"stem": 1.0})(net(1), pictures()), "teacher")
    sum_of = fxquant.Distillation(teacher, features={"2": 1.0})
    refused(
        "FXQ128",
        lambda: sum_of(fxquant.compress(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []), pictures()),
        "student",
    )


def test_a_name_that_was_removed_says_so():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.flat, self.head = nn.Identity(), nn.Flatten(), nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.flat(self.idle(x)))

    teacher = Idle().eval()
    student = fxquant.compress(teacher, ["drop-identity"])
    refused("FXQ128", lambda: fxquant.Distillation(teacher, features={"idle": 1.0})(student, pictures()), "removed")


def test_features_of_other_shapes_are_refused():
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10)) for width in (8, 6))
    loss = fxquant.Distillation(teacher, features={"1": 1.0})
    refused("FXQ128", lambda: loss(student, pictures()), "[16, 6]", "[16, 8]")


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"features": {"2": -1}}, "features['2']=-1"),
    ],
)
def test_options_that_mean_nothing(options, told):
    refused("FXQ127", lambda: fxquant.Distillation(net(), **options), told)


def test_a_teacher_that_is_none_or_the_student_itself():
    refused("FXQ127", lambda: fxquant.Distillation("resnet18"), "teacher is str")
    model = net()
    refused("FXQ127", lambda: fxquant.Distillation(model)(model, pictures()), "one model")
    tied = net(1)
    tied[5].weight = model[5].weight
    refused("FXQ127", lambda: fxquant.Distillation(model)(tied, pictures()), "share '5.weight'")


def test_a_teacher_that_is_trained_by_accident_is_found():
    teacher, student = net(0), net(1)
    loss = fxquant.Distillation(teacher)
    optimizer = torch.optim.SGD([*student.parameters(), *teacher.parameters()], lr=0.1)
    hard = F.cross_entropy(teacher(pictures()), labels())
    (loss(student, pictures()) + hard).backward()
    optimizer.step()
    refused("FXQ315", lambda: loss(student, pictures()), "'0.weight'", "student's parameters()")


def test_logits_of_other_shapes():
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    refused("FXQ127", lambda: fxquant.Distillation(net())(other, pictures()), "[16, 7]", "[16, 10]")


# The loop -----------------------------------------------------------------------------------------------------------


def test_a_student_learns_and_the_world_stays():
    teacher, student = net(0), net(1)
    state, before = torch.get_rng_state(), fingerprint(teacher)
    told = fxquant.distil(student, teacher, [inputs for inputs, _ in DATA], epochs=10, lr=3e-3)
    assert told.steps == 40 and sum(told.losses[-4:]) < 0.7 * sum(told.losses[:4])
    assert torch.equal(torch.get_rng_state(), state) and fingerprint(teacher) == before
    assert not student.training and "40 steps, loss" in str(told)


def test_the_same_seed_gives_the_same_student():
    def trained(seed, noise):
        torch.manual_seed(noise)
        student = qat(net(1))
        fxquant.distil(student, net(0), DATA, epochs=2, seed=seed)
        return student.eval()(pictures())

    state = torch.get_rng_state()
    one, same, other = trained(0, 1), trained(0, 2), trained(1, 1)
    torch.set_rng_state(state)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_steps_count_instead_of_epochs_and_loaders_are_read_again():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures(32), labels(32)), batch_size=16)
    assert fxquant.distil(net(1), net(0), loader, steps=5).steps == 5
    assert fxquant.distil(net(1), net(0), loader, epochs=2).steps == 4


def test_pruned_weights_stay_zero_and_a_tensor_of_zeros_trains():
    student = net(1)
    with torch.no_grad():
        student[5].weight[:, ::2] = 0
        student[0].weight.zero_()
    fxquant.distil(student, net(0), DATA, epochs=2)
    assert bool((student[5].weight[:, ::2] == 0).all()) and bool((student[5].weight[:, 1::2] != 0).all())
    assert bool((student[0].weight != 0).any())
    fxquant.distil(student, net(0), DATA, epochs=2, keep_zeros=False)
    assert bool((student[5].weight[:, ::2] != 0).any())


def test_a_loss_that_diverges_is_an_error():
    refused("FXQ316", lambda: fxquant.distil(net(1), net(0), [DATA[0][0] * float("nan")], steps=3), "step 0")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batches": []}, "no batch"),
        ({"batches": iter(DATA)}, "generator"),
        ({"batches": 3}, "batches is a int"),
        ({"epochs": 0}, "epochs=0"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"lr": -1}, "lr=-1"),
    ],
)
def test_a_loop_that_means_nothing(options, told):
    given = {"batches": DATA, "steps": 1} | options
    refused("FXQ127", lambda: fxquant.distil(net(1), net(0), **given), told)


def test_a_student_whose_weights_are_frozen():
    refused("FXQ127", lambda: fxquant.distil(net(1).requires_grad_(False), net(0), DATA), "requires gradients")


def test_data_without_a_length_needs_steps():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield pictures()

    data = torch.utils.data.DataLoader(Endless(), batch_size=None)
    refused("FXQ127", lambda: fxquant.distil(net(1), net(0), data), "has no length")
    assert fxquant.distil(net(1), net(0), data, steps=2).steps == 2
