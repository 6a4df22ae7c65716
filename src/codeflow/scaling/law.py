"""The multilingual scaling law as a value, and as a function of many parameter vectors at once with its Jacobian.

    L(N, D; p) = A (N/N0)^-aN(p) + B (D_x/D0)^-aD(p) + L_inf(p)
    aN(p) = sum_k p_k aN_k     aD(p) = sum_k p_k aD_k     L_inf(p) = sum_k p_k L_inf_k
    D_x = D (1 + sum_{i<j} p_i p_j kappa_ij)               kappa_ij = gamma (tau_ij + tau_ji)

Source: "Scaling Laws for Code: Every Programming Language Matters", arXiv 2512.13472. With one language it is the law
of Hoffmann et al. 2022 (Chinchilla).

Two facts that the formula hides. gamma and tau enter as a product and only as the sum over both directions of a pair,
so runs determine kappa and nothing finer. And with more than one language the units matter: A is shared while the
exponents differ, so N0 and D0 are where all languages have the same reducible loss; another unit is another law.

Legend: S parameter vectors side by side, R runs, K languages, M coefficients of transfer, P = 2 + 3 K + M parameters in
the order log A, log B, aN (K), aD (K), log L_inf (K), transfer (M).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_EFFECTIVE = 1e-3  # of the tokens: negative transfer cannot take more than all but this
_LARGEST_EXPONENT = 60.0  # keeps exp finite while a search strays


class ScalingLaw(Config):
    """A fitted law. Losses in nats per token."""

    languages: tuple[str, ...]
    parameters_unit: float = Field(default=1.0, gt=0)  # N0
    tokens_unit: float = Field(default=1.0, gt=0)  # D0
    a: float = Field(gt=0)
    b: float = Field(gt=0)
    alpha_n: tuple[float, ...]  # (K,)
    alpha_d: tuple[float, ...]  # (K,)
    l_inf: tuple[float, ...]  # (K,)
    kappa: tuple[tuple[float, ...], ...] = ()  # (K, K), symmetric, diagonal 0; empty: no transfer

    @model_validator(mode="after")
    def _fits(self) -> ScalingLaw:
        k = len(self.languages)
        for name in ("alpha_n", "alpha_d", "l_inf"):
            if len(getattr(self, name)) != k:
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {k} languages; give one for each")
        if self.kappa and [len(row) for row in self.kappa] != [k] * k:
            raise ValueError(f"kappa must have {k} rows of {k}")
        return self

    @classmethod
    def of(
        cls,
        languages: tuple[str, ...],
        units: tuple[float, float],
        theta: NDArray[np.float64],
        kappa: NDArray[np.float64] | None = None,
    ) -> ScalingLaw:
        """Return the law of a parameter vector (P,), without its transfer, and kappa (K, K); units are N0 and D0."""
        k = len(languages)
        return cls(
            languages=languages,
            parameters_unit=units[0],
            tokens_unit=units[1],
            a=float(np.exp(theta[0])),
            b=float(np.exp(theta[1])),
            alpha_n=tuple(theta[2 : 2 + k].tolist()),
            alpha_d=tuple(theta[2 + k : 2 + 2 * k].tolist()),
            l_inf=tuple(np.exp(theta[2 + 2 * k : 2 + 3 * k]).tolist()),
            kappa=() if kappa is None else tuple(map(tuple, kappa.tolist())),
        )

    def share_vector(self, shares: Mapping[str, float]) -> NDArray[np.float64]:
        """Return shares by name as (K,), normalised. Raises UserError for an unknown language or nothing positive."""
        for name in shares:
            if name not in self.languages:
                raise UserError(f"the law knows no language '{name}'{suggest(name, self.languages)}")
        vector = np.array([shares.get(name, 0.0) for name in self.languages], np.float64)
        if not (vector >= 0).all() or vector.sum() <= 0:
            raise UserError(f"shares {dict(shares)} must be >= 0 and not all 0")
        return vector / vector.sum()

    def loss(
        self,
        n_parameters: float | NDArray[np.float64],
        n_tokens: float | NDArray[np.float64],
        shares: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return the loss on the mixture itself, (R,), of N (R,), D (R,) and shares (R, K) or (K,)."""
        p = np.atleast_2d(shares)
        n = np.log(np.asarray(n_parameters, np.float64) / self.parameters_unit)
        d = np.log(np.asarray(n_tokens, np.float64) / self.tokens_unit) + np.log(self.effective_share(p))
        return (
            self.a * np.exp(-(p @ np.array(self.alpha_n)) * n)
            + self.b * np.exp(-(p @ np.array(self.alpha_d)) * d)
            + p @ np.array(self.l_inf)
        )

    def effective_share(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return D_x / D, (R,), of shares (R, K)."""
        if not self.kappa:
            return np.ones(len(shares))
        gain = 0.5 * np.einsum("ri,ij,rj->r", shares, np.array(self.kappa), shares)  # the sum over i < j
        return np.maximum(1 + gain, _LEAST_EFFECTIVE)

    def in_units(self, parameters_unit: float, tokens_unit: float) -> ScalingLaw:
        """Return the same law of one language with other units; with more languages there is no such law."""
        assert len(self.languages) == 1, "units of a law of several languages are part of it"
        a = self.a * (parameters_unit / self.parameters_unit) ** -self.alpha_n[0]
        b = self.b * (tokens_unit / self.tokens_unit) ** -self.alpha_d[0]
        return self.model_copy(update={"parameters_unit": parameters_unit, "tokens_unit": tokens_unit, "a": a, "b": b})


@dataclass(frozen=True)
class Design:
    """What the law's value at R runs depends on beside its parameters."""

    log_n: NDArray[np.float64]  # (R,) log N/N0
    log_d: NDArray[np.float64]  # (R,) log D/D0
    shares: NDArray[np.float64]  # (R, K)
    transfer: NDArray[np.float64]  # (R, M) what multiplies each coefficient of transfer

    @property
    def n_languages(self) -> int:
        """K."""
        return self.shares.shape[1]

    @property
    def n_free(self) -> int:
        """P."""
        return 2 + 3 * self.n_languages + self.transfer.shape[1]

    def blocks(self) -> tuple[slice, slice, slice, slice]:
        """Return where aN, aD, log L_inf and the transfer lie in a parameter vector."""
        k = self.n_languages
        return slice(2, 2 + k), slice(2 + k, 2 + 2 * k), slice(2 + 2 * k, 2 + 3 * k), slice(2 + 3 * k, self.n_free)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Design:
        """Return the runs at `rows`."""
        return Design(self.log_n[rows], self.log_d[rows], self.shares[rows], self.transfer[rows])

    def log_loss(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logarithm of the loss, (S, R), for parameters (S, P)."""
        return np.log(sum(self._terms(theta)[:3]))

    def log_loss_and_jacobian(self, theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the logarithm of the loss (S, R) and its derivatives (S, R, P) for parameters (S, P)."""
        size, data, floor, alpha_d, log_dx, one_plus = self._terms(theta)
        n_slice, d_slice, e_slice, g_slice = self.blocks()
        loss = size + data + floor
        size, data = size / loss, data / loss
        jacobian = np.empty((*loss.shape, self.n_free))
        jacobian[..., 0], jacobian[..., 1] = size, data
        jacobian[..., n_slice] = -(size * self.log_n)[..., None] * self.shares
        jacobian[..., d_slice] = -(data * log_dx)[..., None] * self.shares
        jacobian[..., e_slice] = self.shares * np.exp(theta[:, None, e_slice]) / loss[..., None]
        if self.transfer.shape[1]:
            pull = np.where(one_plus > _LEAST_EFFECTIVE, -data * alpha_d / one_plus, 0.0)
            jacobian[..., g_slice] = pull[..., None] * self.transfer
        return np.log(loss), jacobian

    def _terms(self, theta: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        n_slice, d_slice, e_slice, g_slice = self.blocks()
        alpha_n, alpha_d = theta[:, n_slice] @ self.shares.T, theta[:, d_slice] @ self.shares.T
        one_plus = np.maximum(1 + theta[:, g_slice] @ self.transfer.T, _LEAST_EFFECTIVE)
        log_dx = self.log_d + np.log(one_plus)
        size = np.exp(np.minimum(theta[:, :1] - alpha_n * self.log_n, _LARGEST_EXPONENT))
        data = np.exp(np.minimum(theta[:, 1:2] - alpha_d * log_dx, _LARGEST_EXPONENT))
        floor = np.exp(np.clip(theta[:, e_slice], -_LARGEST_EXPONENT, _LARGEST_EXPONENT)) @ self.shares.T
        return size, data, floor, alpha_d, log_dx, one_plus
