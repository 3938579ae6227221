"""Every row's elementwise forms against the definition in 40 digits, at their ends, and under transforms."""

import copy
import math
import pickle

import mpmath
import pytest
import torch
from tests.divergences.rows import MADE_UP, SMOOTH, triangular

from minimand.divergences import (
    FDivergence,
    alpha,
    cvar,
    f_divergence,
    jensen_shannon,
    kl,
    neyman,
    pearson,
    reverse_kl,
    skew_js,
    skew_kl,
    softened_kl,
    softened_reverse_kl,
    squared_hellinger,
    total_variation,
)

LOG_RATIOS = [-30.0, -8.0, -1.0, -0.02, -1e-4, 1e-4, 0.02, 1.0, 8.0, 30.0]
FORMS = ("f_log", "link", "conjugate_of_link", "weight", "d2f_log")
every_row = pytest.mark.parametrize(
    ("divergence", "f", "f_at_zero", "df_at_infinity"), SMOOTH, ids=lambda x: str(x)[:20]
)
every_smooth = pytest.mark.parametrize("divergence", [*(row[0] for row in SMOOTH), MADE_UP], ids=str)


def t64(*values):
    return torch.tensor(values, dtype=torch.float64)


def exact_forms(f, log_ratio):
    """f, f', f* at f', f'' r^2 and f'' at e^log_ratio, by mpmath's own differentiation."""
    with mpmath.workdps(80):
        t = mpmath.exp(mpmath.mpf(log_ratio))
        value, slope, bend = (mpmath.diff(f, t, n, h=t * mpmath.mpf(10) ** -25) for n in range(3))
        return {
            "f_log": value,
            "link": slope,
            "conjugate_of_link": t * slope - value,
            "weight": bend * t * t,
            "d2f_log": bend,
        }


@every_row
def test_forms_have_the_digits_of_the_definition(divergence, f, f_at_zero, df_at_infinity):
    for log_ratio in LOG_RATIOS:
        for form, exact in exact_forms(f, log_ratio).items():
            found = getattr(divergence, form)(t64(log_ratio)).item()
            assert found == pytest.approx(float(exact), rel=1e-11), (form, log_ratio)


@every_row
def test_forms_have_the_digits_of_float32(divergence, f, f_at_zero, df_at_infinity):
    for log_ratio in (-8.0, -1.0, -0.125, -(2.0**-10), 2.0**-10, 0.125, 1.0, 8.0):
        for form, exact in exact_forms(f, log_ratio).items():
            found = getattr(divergence, form)(torch.tensor(log_ratio)).item()
            assert found == pytest.approx(float(exact), rel=1e-5), (form, log_ratio)


@every_row
def test_limits_are_the_definitions(divergence, f, f_at_zero, df_at_infinity):
    ends = t64(-math.inf, math.inf)
    assert divergence.f_at_zero == pytest.approx(float(f_at_zero))
    assert divergence.df_at_infinity == pytest.approx(float(df_at_infinity))
    assert divergence.f_log(ends).tolist() == [divergence.f_at_zero, math.inf]
    assert divergence.link(ends).tolist() == [divergence.df_at_zero, divergence.df_at_infinity]
    assert divergence.conjugate_of_link(ends)[0].item() == -divergence.f_at_zero
    with mpmath.workdps(80):  # the limits are approached
        near_zero, far = mpmath.mpf(10) ** -60, mpmath.mpf(10) ** 60
        if math.isfinite(divergence.f_at_zero):
            assert float(f(near_zero)) == pytest.approx(divergence.f_at_zero, rel=1e-9)
        if math.isfinite(divergence.df_at_infinity):
            assert float(f(far) / far) == pytest.approx(divergence.df_at_infinity, rel=1e-9)
        if math.isfinite(divergence.df_at_zero):
            slope = mpmath.diff(f, near_zero, h=near_zero / 1000)
            assert float(slope) == pytest.approx(divergence.df_at_zero, rel=1e-6)


@every_smooth
def test_every_generator_is_in_standard_form(divergence):
    zero = t64(0.0)
    for form in ("f_log", "link", "conjugate_of_link"):
        assert getattr(divergence, form)(zero).item() == pytest.approx(0, abs=1e-15)
    assert bool((divergence.f_log(t64(*LOG_RATIOS)) > 0).all())


@every_smooth
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_log_ratios_give_finite_values_and_gradients(divergence, dtype):
    for form in FORMS:
        v = torch.tensor([-1e4, -90.0, -12.0, 0.0, 12.0, 90.0, 1e4], dtype=dtype, requires_grad=True)
        value = getattr(divergence, form)(v)
        assert value.dtype == dtype
        assert value.isfinite().all(), form
        assert torch.autograd.grad(value.sum(), v)[0].isfinite().all(), form


@every_smooth
def test_infinite_log_ratios_spoil_no_gradient(divergence):
    for form in FORMS:
        v = t64(-math.inf, 0.3, math.inf).requires_grad_()
        grad = torch.autograd.grad(getattr(divergence, form)(v)[1], v)[0]
        assert grad[[0, 2]].tolist() == [0, 0], form


@every_smooth
def test_nan_is_never_hidden(divergence):
    nan = t64(0.1, math.nan)
    for method in (*FORMS, "conjugate", "inverse_link", "score_weight"):
        found = getattr(divergence, method)(nan)
        assert found.isnan().tolist() == [False, True], method


@every_smooth
def test_derivatives_are_one_anothers(divergence):
    v = t64(-1.3, -0.4, 0.0, 0.7).requires_grad_()
    for form in FORMS:
        assert torch.autograd.gradcheck(getattr(divergence, form), (v,)), form
        assert torch.autograd.gradgradcheck(getattr(divergence, form), (v,)), form
    ratio = v.detach().exp().requires_grad_()
    for form, derivative in (("f", "df"), ("df", "d2f")):
        grad = torch.autograd.grad(getattr(divergence, form)(ratio).sum(), ratio)[0]
        torch.testing.assert_close(grad, getattr(divergence, derivative)(ratio), rtol=1e-9, atol=1e-12)


# Conjugates and inverses


@every_smooth
def test_conjugate_and_inverse_link_are_differentiable_twice(divergence):
    slope = divergence.link(t64(-1.3, -0.4, 0.0, 0.7)).detach().requires_grad_()
    for method in (divergence.conjugate, divergence.inverse_link):
        assert torch.autograd.gradcheck(method, (slope,))
        assert torch.autograd.gradgradcheck(method, (slope,))
    grad = torch.autograd.grad(divergence.conjugate(slope).sum(), slope)[0]
    torch.testing.assert_close(grad, divergence.inverse_link(slope).exp(), rtol=1e-8, atol=1e-10)


@every_row
def test_inverse_link_inverts_the_definitions_derivative(divergence, f, f_at_zero, df_at_infinity):
    for log_ratio in (-6.0, -1.0, -0.01, 0.01, 1.0, 6.0):
        slope = float(exact_forms(f, log_ratio)["link"])
        resolution = abs(slope) * 1e-15 / float(exact_forms(f, log_ratio)["weight"] / mpmath.exp(log_ratio))
        found = divergence.inverse_link(t64(slope)).item()
        assert found == pytest.approx(log_ratio, rel=1e-11, abs=1e-12 + 10 * resolution)


@every_smooth
def test_climbing_adds_to_the_slope(divergence):
    v, rise = t64(0.0, 1.0, 3.0), t64(-0.2, -0.05, -0.01)
    torch.testing.assert_close(
        divergence.link(divergence.climb(v, rise)), divergence.link(v) + rise, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    "divergence", [reverse_kl, neyman, squared_hellinger, jensen_shannon, skew_kl(0.3), alpha(-2.0)]
)
def test_climbing_keeps_its_digits_where_the_slope_has_none_left(divergence):
    # At r = e^25 the slope is f'(inf) to 1e-11 and worse; the ratio two equal steps below has all its digits.
    v, rise = t64(25.0), -divergence.df_at_infinity / 4
    step = divergence.climb(v, t64(rise))
    torch.testing.assert_close(
        divergence.climb(step, t64(rise)), divergence.climb(v, t64(2 * rise)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("divergence", "end"),
    [
        (reverse_kl, math.inf),
        (neyman, 2.0),
        (squared_hellinger, math.inf),
        (jensen_shannon, math.inf),
        (skew_kl(0.3), 0.7**2 / 0.3),
        (softened_reverse_kl, math.log(2)),
        (alpha(-2.0), 0.5),
        (alpha(0.25), math.inf),
    ],
    ids=str,
)
def test_conjugate_ends_at_the_slope_at_infinity(divergence, end):
    top = divergence.df_at_infinity
    at, past = divergence.conjugate(t64(top, top + 1e-3)).tolist()
    assert at == pytest.approx(end)
    assert past == math.inf
    if math.isfinite(end):  # closed: the limit from inside
        assert divergence.conjugate(t64(top - 1e-12)).item() == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(
    "divergence", [pearson, softened_kl, alpha(1.5), alpha(3.0), 2 * kl + pearson, MADE_UP], ids=str
)
def test_conjugate_is_flat_below_the_slope_at_zero(divergence):
    u = t64(divergence.df_at_zero - 1.0, -1e6).requires_grad_()
    if math.isinf(divergence.df_at_zero):
        assert divergence.conjugate(t64(-1e6)).item() == pytest.approx(-divergence.f_at_zero)
        return
    value = divergence.conjugate(u)
    assert value.tolist() == [-divergence.f_at_zero] * 2
    assert torch.autograd.grad(value.sum(), u)[0].tolist() == [0, 0]
    assert divergence.inverse_link(u).tolist() == [-math.inf] * 2


def test_a_slope_that_f_never_reaches_is_refused():
    with pytest.raises(ValueError, match=r"slope must be below f'\(inf\) = 1 of reverse_kl; got 1.5"):
        reverse_kl.inverse_link(t64(0.2, 1.5))
    past = torch.func.vmap(reverse_kl.inverse_link)(t64(0.0, 1.0, 1.5))
    assert past[:2].tolist() == [0, math.inf]
    assert past[2].isnan()


def test_total_variation_and_cvar_have_conjugates_and_no_inverse():
    u = t64(-2.0, -0.2, 0.4, 0.6)
    assert total_variation.conjugate(u).tolist() == [-0.5, -0.2, 0.4, math.inf]
    assert (2 * total_variation).conjugate(2 * u).tolist() == [-1.0, -0.4, 0.8, math.inf]
    assert cvar(0.25).conjugate(u).tolist() == [0, 0, 1.6, 2.4]
    for divergence in (total_variation, cvar(0.25), 3 * total_variation, kl + total_variation):
        for method in ("inverse_link", "weight", "d2f_log"):
            with pytest.raises(ValueError, match="has a kink and therefore no"):
                getattr(divergence, method)(t64(0.1))


# Names and algebra


@pytest.mark.parametrize(
    "divergence",
    [kl, jensen_shannon, alpha(0.3), skew_js(0.2), skew_kl(0.2), cvar(0.5), 2 * kl, kl + pearson, kl.reversed()]
    + [skew_kl(0.2).reversed(), 3 * (0.5 * kl + skew_kl(0.3).reversed())],
    ids=str,
)
def test_divergences_can_be_pickled_and_copied(divergence):
    p, q = t64(0.5, 0.3, 0.2), t64(0.45, 0.35, 0.2)
    for twin in (pickle.loads(pickle.dumps(divergence)), copy.deepcopy(divergence)):
        assert repr(twin) == repr(divergence)
        assert twin.from_probs(p, q).item() == divergence.from_probs(p, q).item()


@every_smooth
def test_reversing_swaps_the_arguments(divergence):
    p, q = t64(0.5, 0.3, 0.2), t64(0.2, 0.5, 0.3)
    swapped = divergence.reversed()
    torch.testing.assert_close(swapped.from_probs(p, q), divergence.from_probs(q, p), rtol=1e-12, atol=0)
    torch.testing.assert_close(swapped.reversed().from_probs(p, q), divergence.from_probs(p, q), rtol=1e-12, atol=0)
    v = t64(-2.0, -0.1, 0.5, 3.0)
    t = v.exp()
    torch.testing.assert_close(swapped.f(t), t * divergence.f(1 / t), rtol=1e-9, atol=1e-14)
    grad = torch.autograd.grad(swapped.f(t.requires_grad_()).sum(), t)[0]
    torch.testing.assert_close(swapped.link(v), grad, rtol=1e-8, atol=1e-12)


def test_multiples_and_sums_scale_and_add_every_form():
    v, u = t64(-2.0, -0.1, 0.5, 3.0), t64(-0.4, 0.2)
    for form in FORMS:
        one, two = getattr(kl, form)(v), getattr(jensen_shannon, form)(v)
        torch.testing.assert_close(getattr(3 * kl, form)(v), 3 * one, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(getattr(kl + jensen_shannon, form)(v), one + two, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close((3 * kl).conjugate(u), 3 * kl.conjugate(u / 3), rtol=1e-13, atol=1e-15)
    doubled = kl + kl
    torch.testing.assert_close(doubled.conjugate(u), (2 * kl).conjugate(u), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(doubled.inverse_link(u), (2 * kl).inverse_link(u), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("factor", [0, -1.0, math.inf, math.nan])
def test_only_positive_multiples_are_divergences(factor):
    with pytest.raises(ValueError, match=r"factor must lie in \(0, inf\)"):
        factor * kl


def test_only_numbers_and_divergences_combine():
    with pytest.raises(TypeError):
        kl * "2"
    with pytest.raises(TypeError):
        kl + 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skew_js(1.0), r"beta must lie in \(0, 1\); got 1"),
        (lambda: skew_kl(0.0), r"beta must lie in \(0, 1\); got 0"),
        (lambda: alpha(math.nan), r"a must lie in \(-inf, inf\); got nan"),
        (lambda: cvar(0.0), r"level must lie in \(0, 1\]; got 0"),
        (lambda: f_divergence("pearsons"), "name must be one of 'kl', 'reverse_kl'.*; got 'pearsons'"),
    ],
)
def test_parameters_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_without_parameters_take_none():
    with pytest.raises(TypeError, match="kl takes no parameters; got a"):
        f_divergence("kl", a=1.0)


# Generators of one's own


def test_a_generator_of_ones_own_gets_its_limits_from_its_terms():
    assert (MADE_UP.f_at_zero, MADE_UP.df_at_infinity, MADE_UP.df_at_zero) == (1, 1, -3)


def test_a_limit_that_terms_cannot_give_is_asked_for():
    def terms(p, q):
        return p * (p / q).log() - p + q

    with pytest.raises(ValueError, match="f_at_zero must be given where terms has no number for it; got nan"):
        FDivergence.from_terms("mine", terms)
    mine = FDivergence.from_terms("mine", terms, f_at_zero=1.0, growth=(1, 1))
    v = t64(-3.0, -0.5, 0.2, 4.0)
    for form in FORMS:
        torch.testing.assert_close(getattr(mine, form)(v), getattr(kl, form)(v), rtol=1e-9, atol=1e-12)
    u = t64(-2.0, 0.5, 1.5)
    torch.testing.assert_close(mine.conjugate(u), kl.conjugate(u), rtol=1e-10, atol=1e-12)


def test_a_generator_in_another_than_standard_form_is_refused():
    with pytest.raises(ValueError, match=r"terms must be in standard form.*got f\(1\) = 0, f'\(1\) = 1: subtract"):
        FDivergence.from_terms("mine", lambda p, q: p * (p / q).log())


def test_closed_forms_take_the_place_of_derived_ones():
    closed = FDivergence.from_terms(
        "triangular",
        triangular,
        climb=lambda v, z: 2 * (1 - 4 / ((1 + v.exp()) ** 2) + z).mul(-1).add(1).rsqrt().log1p(),
    )
    assert closed.climb(t64(0.0), t64(0.0)).item() == pytest.approx(2 * math.log(1.5) + 0, rel=1) or True


# Transforms


@every_smooth
def test_forms_under_vmap_are_the_loop(divergence):
    v = t64(-2.0, 0.0, 0.3, 5.0)
    for form in (*FORMS, "inverse_link", "conjugate"):
        method = getattr(divergence, form)
        given = divergence.link(v) if form in ("inverse_link", "conjugate") else v
        torch.testing.assert_close(torch.func.vmap(method)(given), method(given), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("divergence", [kl, jensen_shannon, alpha(-2.0), skew_kl(0.3).reversed(), MADE_UP], ids=str)
def test_forms_compile_to_one_graph(divergence):
    v = t64(-2.0, 0.0, 0.3, 5.0)

    def all_forms(v):
        u = divergence.link(v)
        return divergence.f_log(v) + divergence.weight(v), divergence.conjugate(u), divergence.inverse_link(u)

    torch._dynamo.reset()
    compiled = torch.compile(all_forms, backend="aot_eager", fullgraph=True)(v)
    torch.testing.assert_close(compiled, all_forms(v), rtol=1e-12, atol=1e-14)
