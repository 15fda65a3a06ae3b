"""Mixture of experts: routing, the routed experts (never adapted), the shared one (adapted).

Letters: s tokens, d width, e experts, f features inside an expert, k experts chosen for a token,
g groups of experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import Experts, Router
from fluvial.model.module.linear import AdapterTensors, LayerWeights, activate
from fluvial.model.module.mlp import GatedMlp

SMALLEST_SUM = 1e-20


class ExpertsMlp:
    """A mixture of experts with its weights."""

    def __init__(self, experts: Experts, weights: LayerWeights) -> None:
        self._experts = experts
        self._router_ED = weights.matrix("router")
        self._bias_E = weights.vector("router_bias") if experts.router.bias else None
        self._gate_EFD = weights.matrix("experts_gate")
        self._up_EFD = weights.matrix("experts_up")
        self._down_EDF = weights.matrix("experts_down")
        self._shared = None if experts.shared is None else GatedMlp(experts.shared, weights)
        self._switch_1D = weights.matrix("shared_switch") if experts.shared_switch else None

    def run(self, normal_SD: Tensor, *, adapter: AdapterTensors | None) -> Tensor:
        """See `Widening`."""
        weights_SK, chosen_SK = route(
            normal_SD @ self._router_ED.T,
            router=self._experts.router,
            active=self._experts.active,
            bias_E=self._bias_E,
        )
        wide_SD = self._mix(normal_SD, weights_SK, chosen_SK)
        if self._shared is None:
            return wide_SD
        shared_SD = self._shared.run(normal_SD, adapter=adapter)
        if self._switch_1D is not None:
            shared_SD = (normal_SD @ self._switch_1D.T).sigmoid() * shared_SD
        return wide_SD + shared_SD

    def _mix(self, normal_SD: Tensor, weights_SK: Tensor, chosen_SK: Tensor) -> Tensor:
        wide_SD = torch.zeros_like(normal_SD)
        for expert in chosen_SK.unique().tolist():
            tokens, places = torch.where(chosen_SK == expert)
            out = self._run_expert(expert, normal_SD[tokens]) * weights_SK[tokens, places, None]
            wide_SD = wide_SD.index_add(0, tokens, out)
        return wide_SD

    def _run_expert(self, expert: int, x_SD: Tensor) -> Tensor:
        gate = F.linear(x_SD, self._gate_EFD[expert])
        inner = activate(gate, self._experts.activation) * F.linear(x_SD, self._up_EFD[expert])
        return F.linear(inner, self._down_EDF[expert])


def route(
    logits_SE: Tensor, *, router: Router, active: int, bias_E: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose `active` experts for each token; of equal ones, the first.

    Returns their weights float32 [s, k] and indices int64 [s, k], best first.
    """
    scores_SE = logits_SE.softmax(dim=-1) if router.score == "softmax" else logits_SE.sigmoid()
    with torch.no_grad():
        merit_SE = scores_SE if bias_E is None else scores_SE + bias_E
        if router.groups > 1:
            merit_SE = _keep_best_groups(merit_SE, router)
        chosen_SK = merit_SE.sort(dim=-1, descending=True, stable=True).indices[:, :active]
    weights_SK = scores_SE.gather(1, chosen_SK)
    if router.normalise:
        weights_SK = weights_SK / weights_SK.sum(dim=-1, keepdim=True).clamp_min(SMALLEST_SUM)
    return weights_SK * router.scale, chosen_SK


def _keep_best_groups(merit_SE: Tensor, router: Router) -> Tensor:
    """Put minus infinity for the experts outside a token's best groups."""
    grouped_SGE = merit_SE.unflatten(-1, (router.groups, -1))
    worth_SG = grouped_SGE.topk(2, dim=-1).values.sum(dim=-1)
    order_SG = worth_SG.sort(dim=-1, descending=True, stable=True).indices
    out_SG = torch.ones_like(worth_SG, dtype=torch.bool)
    out_SG = out_SG.scatter(1, order_SG[:, : router.active_groups], False)
    return grouped_SGE.masked_fill(out_SG[..., None], float("-inf")).flatten(1)
