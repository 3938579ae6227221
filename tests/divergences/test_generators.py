"""Every row's elementwise forms against its definition in 80 digits, at their ends, and what makes new ones."""

import copy
import math
import pickle

import mpmath
import pytest
import torch

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

from .rows import DEFINITIONS, MADE_UP, SMOOTH, every_row, every_smooth, exact_forms, skewed_jensen_shannon, skewed_kl

FORMS = ("f_log", "link", "conjugate_of_link", "weight", "d2f_log")


def t64(*values):
    return torch.tensor(values, dtype=torch.float64)


# The forms


@every_row
@pytest.mark.parametrize(
    ("dtype", "sizes", "digits"),
    [(torch.float64, (30.0, 8.0, 1.0, 0.02, 1e-4), 1e-11), (torch.float32, (8.0, 1.0, 0.125, 2.0**-10), 1e-5)],
    ids=["float64", "float32"],
)
def test_forms_have_the_digits_of_the_definition(divergence, f, dtype, sizes, digits):
    for log_ratio in (*sizes, *(-size for size in sizes)):
        for form, exact in exact_forms(f, log_ratio).items():
            found = getattr(divergence, form)(torch.tensor(log_ratio, dtype=dtype)).item()
            assert found == pytest.approx(float(exact), rel=digits), (form, log_ratio)


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
@pytest.mark.parametrize(
    ("family", "definition"), [(skew_js, skewed_jensen_shannon), (skew_kl, skewed_kl)], ids=["skew_js", "skew_kl"]
)
def test_almost_pure_mixtures_keep_the_digits_of_float32(family, definition, share):
    for log_ratio in (-8.0, -0.5, 2.0**-7, 8.0, 16.0):
        for form, exact in exact_forms(definition(share), log_ratio).items():
            found = getattr(family(share), form)(torch.tensor(log_ratio)).item()
            assert found == pytest.approx(float(exact), rel=1e-5), (form, log_ratio)


@pytest.mark.parametrize(("divergence", "f", "f_at_zero", "df_at_infinity"), SMOOTH, ids=list(DEFINITIONS))
def test_limits_are_those_of_the_definition(divergence, f, f_at_zero, df_at_infinity):
    ends = t64(-math.inf, math.inf)
    assert divergence.f_at_zero == pytest.approx(float(f_at_zero))
    assert divergence.df_at_infinity == pytest.approx(float(df_at_infinity))
    assert divergence.f_log(ends).tolist() == [divergence.f_at_zero, math.inf]
    assert divergence.link(ends).tolist() == [divergence.df_at_zero, divergence.df_at_infinity]
    assert divergence.conjugate_of_link(ends)[0].item() == -divergence.f_at_zero
    if divergence.df_at_zero > -1e6:  # alpha(1 + 1e-9) nears its own too slowly to be seen
        assert float(exact_forms(f, -138)["link"]) == pytest.approx(divergence.df_at_zero, rel=1e-6)


@every_smooth
def test_a_generator_is_zero_at_one_with_its_slope(divergence):
    for form in ("f_log", "link", "conjugate_of_link"):
        assert getattr(divergence, form)(t64(0.0)).item() == pytest.approx(0, abs=1e-15)


@every_smooth
def test_infinite_log_ratios_spoil_no_gradient(divergence):
    for form in FORMS:
        v = t64(-math.inf, 0.3, math.inf).requires_grad_()
        grad = torch.autograd.grad(getattr(divergence, form)(v)[1], v)[0]
        assert grad[[0, 2]].tolist() == [0, 0], form
        assert grad[1].isfinite(), form


@every_smooth
def test_forms_are_differentiable_twice_where_one_formula_takes_over_from_another(divergence):
    v = t64(-1.3, -0.0058, 0.0, 0.0058, 0.6931).requires_grad_()
    for form in FORMS:
        assert torch.autograd.gradgradcheck(getattr(divergence, form), (v,)), form


def test_the_slope_of_total_variation_is_flat():
    v = t64(-2.0, -1.0, 0.0, 1.0).requires_grad_()
    slope = total_variation.link(v)
    assert slope.tolist() == [-0.5, -0.5, 0, 0.5]
    assert torch.autograd.grad(slope.sum(), v)[0].tolist() == [0, 0, 0, 0]


# Conjugates and inverses


@every_row
def test_inverse_and_conjugate_are_those_of_the_definitions_derivative(divergence, f):
    for log_ratio in (-6.0, -1.0, -0.01, 0.01, 1.0, 6.0):
        exact = exact_forms(f, log_ratio)
        slope = t64(float(exact["link"]))
        resolution = 1e-15 * abs(slope.item()) / float(exact["weight"] / mpmath.exp(log_ratio))
        found = divergence.inverse_link(slope).item()
        assert found == pytest.approx(log_ratio, rel=1e-11, abs=1e-12 + 10 * resolution)
        conjugate = float(exact["conjugate_of_link"])
        assert divergence.conjugate(slope).item() == pytest.approx(conjugate, rel=1e-9, abs=1e-12)


@every_smooth
def test_conjugate_and_inverse_link_are_differentiable_twice(divergence):
    slope = divergence.link(t64(-1.3, -0.4, 0.0, 0.7)).detach().requires_grad_()
    for method in (divergence.conjugate, divergence.inverse_link):
        assert torch.autograd.gradgradcheck(method, (slope,))


@pytest.mark.parametrize(
    "divergence",
    [reverse_kl, neyman, squared_hellinger, jensen_shannon, skew_kl(0.3), softened_reverse_kl, alpha(-2.0)],
    ids=str,
)
def test_climbing_keeps_its_digits_where_the_slope_has_none_left(divergence):
    # a ratio of e^v where f' has come to within 1e-9 of f'(inf), and a rise that doubles the distance
    f = DEFINITIONS[str(divergence)]
    with mpmath.workdps(60):

        def slope(log_ratio):
            t = mpmath.exp(log_ratio)
            return mpmath.diff(f, t, h=t * mpmath.mpf(10) ** -20)

        top = slope(mpmath.mpf(130))
        v = float(mpmath.findroot(lambda v: mpmath.log(top - slope(v)) + 9 * mpmath.log(10), (5, 40), solver="ridder"))
        rise = float(slope(v) - top)
        exact = mpmath.findroot(lambda x: slope(x) - slope(v) - rise, (v - 3, v), solver="ridder")
    assert divergence.climb(t64(v), t64(rise)).item() == pytest.approx(float(exact), rel=1e-12)


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


@pytest.mark.parametrize("divergence", [pearson, softened_kl, alpha(1.5), 2 * softened_kl + pearson, MADE_UP], ids=str)
def test_conjugate_is_flat_below_the_slope_at_zero(divergence):
    u = t64(divergence.df_at_zero - 1.0, -1e6).requires_grad_()
    value = divergence.conjugate(u)
    assert value.tolist() == [-divergence.f_at_zero] * 2
    assert torch.autograd.grad(value.sum(), u)[0].tolist() == [0, 0]
    assert divergence.inverse_link(u).tolist() == [-math.inf] * 2


def test_a_slope_that_f_never_reaches_has_no_number_where_it_cannot_be_refused():
    found = torch.func.vmap(reverse_kl.inverse_link)(t64(0.0, 1.0, 1.5))
    assert found[:2].tolist() == [0, math.inf]
    assert found[2].isnan()


def test_a_step_that_is_not_a_number_is_seen_by_every_search():
    for divergence in (2 * kl + pearson, skew_kl(0.3).reversed(), MADE_UP):
        climbed = divergence.climb(t64(0.1, math.nan, 0.1), t64(0.01, 0.01, math.nan))
        assert climbed.isnan().tolist() == [False, True, True]


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
    [kl, alpha(0.3), skew_js(0.2), skew_kl(0.2), cvar(0.5), kl + pearson, 3 * (0.5 * kl + skew_kl(0.3).reversed())],
    ids=str,
)
def test_divergences_can_be_pickled_and_copied(divergence):
    p, q = t64(0.5, 0.3, 0.2), t64(0.45, 0.35, 0.2)
    for twin in (pickle.loads(pickle.dumps(divergence)), copy.deepcopy(divergence)):
        assert repr(twin) == repr(divergence)
        assert twin.from_probs(p, q).item() == divergence.from_probs(p, q).item()


@every_row
def test_reversing_swaps_the_arguments(divergence, f):
    p, q = t64(0.5, 0.3, 0.2), t64(0.2, 0.5, 0.3)
    swapped = divergence.reversed()
    torch.testing.assert_close(swapped.from_probs(p, q), divergence.from_probs(q, p), rtol=1e-12, atol=0)
    for log_ratio in (-2.0, 0.5):
        for form, exact in exact_forms(lambda t: t * f(1 / t), log_ratio).items():
            assert getattr(swapped, form)(t64(log_ratio)).item() == pytest.approx(float(exact), rel=1e-9), form


@pytest.mark.parametrize("factor", [0, -1.0, math.inf, math.nan])
def test_only_positive_multiples_are_divergences(factor):
    with pytest.raises(ValueError, match=r"factor must lie in \(0, inf\)"):
        factor * kl


def test_only_numbers_and_divergences_combine():
    with pytest.raises(TypeError):
        kl * "2"
    with pytest.raises(TypeError):
        kl + 1.0


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
    v = t64(-3.0, -0.5, 0.0, 0.2, 4.0).requires_grad_()
    for form, exact in (("link", v), ("conjugate_of_link", v.expm1()), ("weight", v.exp()), ("d2f_log", (-v).exp())):
        found = getattr(mine, form)(v)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
        slopes = (torch.autograd.grad(y.sum(), v, retain_graph=True)[0] for y in (found, exact))
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)
    u = t64(-2.0, 0.5, 1.5)
    torch.testing.assert_close(mine.conjugate(u), u.expm1(), rtol=1e-10, atol=1e-12)


def test_a_generator_in_another_than_standard_form_is_refused():
    with pytest.raises(ValueError, match=r"terms must be in standard form.*got f\(1\) = 0, f'\(1\) = 1: subtract"):
        FDivergence.from_terms("mine", lambda p, q: p * (p / q).log())


def test_a_closed_form_takes_the_place_of_a_derived_one():
    def climb(v, z):
        return v + z

    assert FDivergence.from_terms("mine", lambda p, q: (p - q) ** 2 / (p + q), climb=climb).generator.climb is climb


# Compiled


def compiled(function, *given, backend="eager"):
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True)(*given)


def test_a_searched_inverse_compiles_though_it_differentiates():
    u = t64(-2.0, 0.1, 0.9)
    expected = (2 / (1 - u).sqrt() - 1).log()  # f'(t) = 1 - 4 / (t + 1)^2
    torch.testing.assert_close(compiled(MADE_UP.inverse_link, u, backend="aot_eager"), expected)


def test_a_divergence_may_be_made_inside_what_is_compiled():
    v = t64(0.3, -0.2)
    found = compiled(lambda v: skew_kl(0.3).estimate(v, "p"), v)
    torch.testing.assert_close(found, skew_kl(0.3).estimate(v, "p"))


def test_the_first_worst_case_of_a_divergence_may_be_compiled():
    x, fresh = t64(1.0, 2.0, 4.0), 2 * pearson
    found = compiled(lambda x: fresh.regularised_expectation(x, 10.0).value, x)
    torch.testing.assert_close(found, x.mean() + x.var(correction=0) / 80)  # no weight truncates
