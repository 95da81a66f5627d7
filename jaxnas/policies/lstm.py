"""The ENAS controller: an LSTM that walks the choices of a space in order and decides each in turn.

Efficient Neural Architecture Search via Parameter Sharing. Pham, Guan, Zoph, Le, Dean; ICML 2018; arXiv
1802.03268, sections 2.2 to 2.4.

The walk is a table with one row per step of the LSTM, so a space of any length compiles to one scan over one
LSTM cell. A step first moves the LSTM, whose input is the vector of the last decision plus an embedding of the step,
then decides:

* a *layer*: a softmax over the candidates, each with an output vector; the next input is the embedding of the
  candidate chosen;
* a *pointer* (an input, one of n): a softmax of the attention to the candidates' anchors; the next input is the
  anchor chosen;
* a *subset* (inputs, any of n): a Bernoulli per input from the same attention; the next input is
  sum(chosen anchors) / (1 + number chosen);
* or nothing: the step only makes an anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import Arch, ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.policies.walk import LAYER_STEP, NOTHING, SUBSET, Bias, decode, encode, plan

_FAR = -1e30  # the logit of what cannot be chosen; infinity would make NaN gradients


@short_repr
class Sample(NamedTuple):
    """One pass of the controller.

    Attributes:
      arch: `{key: int32 [] | bool [n]}`, as `Space.sample` gives it.
      log_prob: float32 `[]`, logarithm of the architecture's probability.
      entropy: float32 `[]`, in nats: the sum of the entropies of the decisions' distributions on this path. Its
        mean over samples is the entropy of the policy.
      skip_penalty: float32 `[]`, in nats: KL(probability || skip target) of the inputs of each any-subset choice, added
        up over the choices, or their mean.
    """

    arch: dict[str, jax.Array]
    log_prob: jax.Array
    entropy: jax.Array
    skip_penalty: jax.Array


class Controller(NamedTuple):
    """A policy over the architectures of a space, as pure functions for jit, vmap and grad.

    Attributes:
      init: `(rng) -> params`.
      sample: `(params, rng) -> Sample`. `jax.vmap(sample, (None, 0))(params, keys)` draws many.
      score: `(params, arch) -> Sample` for a given architecture (fixed or sampled), by teacher forcing; equals what
        sampling it gave. Raises ArchitectureError for one that the controller cannot produce.
      space: the space that it samples from.
      probabilities: `(params) -> {key: float32 [n_candidates]}`, of a policy that decides every choice independently of
        the others; None for others.
    """

    init: Callable[[jax.Array], Any]
    sample: Callable[[Any, jax.Array], Sample]
    score: Callable[[Any, Arch], Sample]
    space: Space
    probabilities: Callable[[Any], dict[str, jax.Array]] | None = None


def controller(
    space: Space,
    *,
    lstm_size: int = 64,
    lstm_layers: int = 1,
    temperature: float | None = None,
    tanh_constant: float | None = 1.5,
    op_tanh_reduce: float = 1.0,
    skip_target: float = 0.4,
    cell_exit_extra_step: bool = False,
    branch_bias: Bias | None = None,
    step_embedding: bool = True,
    skip_reduction: Literal["sum", "mean"] = "sum",
    op_bias: Bias | None = None,
) -> Controller:
    """Builds a controller for a space. Defaults are those of NNI's `EnasMutator`.

    LayerChoices with the same candidates (names, or number if they have none) share embeddings and output
    vectors, as all of them do in the paper; others have their own, so numbers of candidates may differ.

    The anchor of an InputChoice's candidate is the LSTM's state at the choice that `choose_from` names, or at the
    last choice of the *group* it names: `"layer_3"` stands for all keys that begin with `"layer_3/"` (NNI's
    MutableScope). A candidate that names neither gets its own anchor, from one more step.

    Args:
      space: what to decide.
      lstm_size: width of the LSTM and of all embeddings.
      lstm_layers: number of LSTM layers, without biases.
      temperature: divides the logits, if given.
      tanh_constant: logits are `tanh_constant · tanh(logits)`, which keeps the policy from collapsing: with 1.5
        no probability of 6 candidates exceeds 0.80. None for no bound.
      op_tanh_reduce: divides `tanh_constant` for LayerChoices (2.5 in the authors' code, 1 in NNI).
      skip_target: probability of an input that `skip_penalty` pulls towards; between 0 and 1.
      cell_exit_extra_step: makes the anchor of a group from one more step at the group's end, after which the
        walk continues from the start embedding (the authors' micro controller). Groups are those that inputs name, and
        their siblings, such as the last node of a cell, which nothing names.
      branch_bias: fixed offsets of LayerChoices' logits; see `reduction_bias`.
      step_embedding: add a learnt embedding of the step to the LSTM's input, so that it can tell the steps apart from
        the start; the attention's matrices then start at ±1 rather than ±0.1. The paper's controller (False) has
        neither, and must learn to count before one layer can differ from those before it (docs/design.md has the
        measurement).
      skip_reduction: whether `skip_penalty` is the sum over the choices of any subset (NNI's), or their mean (the
        authors'): for 12 layers the sum is 11 times as large.
      op_bias: initial values of a learnt bias of LayerChoices' logits, added before the bound; given as `branch_bias`
        is. Choices with the same candidates share it, and the first of them determines its initial values.

    Raises:
      ArchitectureError: if the space is empty, or a choice takes several inputs, but not any number of them.
      ValueError: for sizes below 1, or constants that are not positive.
    """
    _check(space, lstm_size, lstm_layers, temperature, tanh_constant, op_tanh_reduce, skip_target)
    if skip_reduction not in ("sum", "mean"):
        raise ValueError(f'skip_reduction must be "sum" or "mean"; got {skip_reduction!r}.')
    walk = plan(space, cell_exit_extra_step, branch_bias, op_bias)
    subsets = max(1, np.count_nonzero(walk.kind == SUBSET))
    steps, width = walk.rows.shape
    bounds = (
        None if tanh_constant is None else np.where(walk.kind == LAYER_STEP, 1 / op_tanh_reduce, 1.0) * tanh_constant
    )

    def init(rng: jax.Array) -> dict[str, Any]:
        names = ("start", "op_embedding", "op_output", "anchor", "query", "attention")
        op_shape, square = (walk.vocabulary, lstm_size), (lstm_size, lstm_size)
        shapes = ((lstm_size,), op_shape, op_shape, square, square, (lstm_size,))
        keys = jax.random.split(rng, len(names) + lstm_layers + 1)

        def uniform(key: jax.Array, shape: tuple[int, ...], bound: float = 0.1) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # 0.1 as in the authors' code

        wide = {"anchor": 1.0, "query": 1.0} if step_embedding else {}
        params: dict[str, Any] = {
            name: uniform(key, shape, wide.get(name, 0.1))
            for name, key, shape in zip(names, keys, shapes, strict=False)
        }
        params["lstm"] = [uniform(k, (2 * lstm_size, 4 * lstm_size)) for k in keys[len(names) : -1]]
        if step_embedding:  # large compared with the other inputs, or steps would look the same
            params["step"] = uniform(keys[-1], (steps, lstm_size), 1.0)
        if op_bias is not None:
            params["op_bias"] = jnp.asarray(walk.learnt_bias, jnp.float32)
        return params

    def run(params: Any, choose: Callable[[Any, jax.Array, jax.Array], jax.Array], given: Any) -> tuple:
        """Scans the walk. `choose(given at this step, logits [n], is_subset) -> bool [n]` decides."""

        def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            states, x, hidden, keys = carry
            t, kind, rows, valid, bias, bound, restart, given = row
            states, h = _lstm(params["lstm"], states, x + params["step"][t] if step_embedding else x)
            hidden, keys = hidden.at[t].set(h), keys.at[t].set(h @ params["anchor"])

            is_layer, is_subset = kind == LAYER_STEP, kind == SUBSET
            attention = jnp.tanh(keys[rows] + h @ params["query"]) @ params["attention"]
            outputs = params["op_output"][rows] @ h
            outputs = outputs if op_bias is None else outputs + params["op_bias"][rows]
            logits = jnp.where(is_layer, outputs, attention)
            logits = logits if temperature is None else logits / temperature
            logits = logits if bounds is None else bound * jnp.tanh(logits)
            logits = logits + bias

            # A subset's logits are (-q, q) for (leave, take), so its probability is sigmoid(2 q).
            take, leave = jax.nn.log_sigmoid(2 * logits), jax.nn.log_sigmoid(-2 * logits)
            one = jax.nn.log_softmax(jnp.where(valid, logits, _FAR))
            chosen = choose(given, jnp.where(valid, logits, _FAR), is_subset) & valid
            log_prob = jnp.where(is_subset, jnp.where(chosen, take, leave), jnp.where(chosen, one, 0))
            p, q = jnp.exp(take), jnp.exp(leave)
            entropy = -jnp.where(is_subset, p * take + q * leave, jnp.exp(one) * one)
            penalty = p * (take - np.log(skip_target)) + q * (leave - np.log1p(-skip_target))
            penalty = jnp.where(is_subset, penalty, 0)

            vectors = jnp.where(is_layer, params["op_embedding"][rows], hidden[rows])
            picked = chosen.astype(h.dtype) @ vectors / jnp.where(is_subset, 1 + chosen.sum(), 1)
            x = jnp.where(restart, params["start"], jnp.where(kind == NOTHING, x, picked))
            sums = [jnp.where(valid, v, 0).sum() for v in (log_prob, entropy, penalty)]
            return (states, x, hidden, keys), (chosen, *sums)

        zeros = jnp.zeros(lstm_size)
        memory = jnp.zeros((steps, lstm_size))
        carry = ([(zeros, zeros)] * lstm_layers, params["start"], memory, memory)
        bound = np.ones(steps) if bounds is None else bounds
        columns = (np.arange(steps), walk.kind, walk.rows, walk.valid, walk.bias, bound, walk.restart)
        table = tuple(jnp.asarray(column, jnp.float32 if column.dtype == float else None) for column in columns)
        _, (chosen, *sums) = jax.lax.scan(step, carry, (*table, given))
        log_prob, entropy, penalty = (values.sum() for values in sums)
        return chosen, log_prob, entropy, penalty if skip_reduction == "sum" else penalty / subsets

    def sample(params: Any, rng: jax.Array) -> Sample:
        def draw(key: jax.Array, logits: jax.Array, is_subset: jax.Array) -> jax.Array:
            one_key, subset_key = jax.random.split(key)
            one = jnp.arange(width) == jax.random.categorical(one_key, logits)
            return jnp.where(is_subset, jax.random.bernoulli(subset_key, jax.nn.sigmoid(2 * logits)), one)

        chosen, *sums = run(params, draw, jax.random.split(rng, steps))
        return Sample(decode(space, walk, chosen), *sums)

    def score(params: Any, arch: Arch) -> Sample:
        arch = space.sampled(arch)
        _, *sums = run(params, lambda given, logits, is_subset: given, encode(space, walk, arch))
        return Sample(arch, *sums)

    return Controller(init, sample, score, space)


def reduction_bias(amount: float = 0.25) -> Bias:
    """NNI's branch bias: in LayerChoices with "reduce" in their key, `+amount` for convolutions, `-amount` for others.

    A convolution is a candidate with "conv" in its name. (The authors' code adds it to the normal cell instead.)
    """

    def bias(key: str, spec: ChoiceSpec) -> Sequence[float] | None:
        if "reduce" not in key or spec.names is None:
            return None
        return [amount if "conv" in name else -amount for name in spec.names]

    return bias


def _lstm(weights: Sequence[jax.Array], states: list, x: jax.Array) -> tuple[list, jax.Array]:
    """One step of stacked LSTM layers without biases; states are pairs (cell, hidden)."""
    new = []
    for w, (c, h) in zip(weights, states, strict=True):
        i, f, o, g = jnp.split(jnp.concatenate([x, h]) @ w, 4)
        c = jax.nn.sigmoid(i) * jnp.tanh(g) + jax.nn.sigmoid(f) * c
        x = jax.nn.sigmoid(o) * jnp.tanh(c)
        new.append((c, x))
    return new, x


def _check(space, lstm_size, lstm_layers, temperature, tanh_constant, op_tanh_reduce, skip_target) -> None:
    if not space:
        raise ArchitectureError("the space has no choices: there is nothing for a controller to decide.")
    for key, spec in space.items():
        if spec.n_chosen not in (1, None):
            raise ArchitectureError(
                f"choice {key!r} ({spec}): the ENAS controller decides LayerChoices, and InputChoices with n_chosen=1 "
                f"(a pointer) or n_chosen=None (any subset); got n_chosen={spec.n_chosen}. Use {spec.n_chosen} "
                "InputChoices with n_chosen=1 instead."
            )
    for name, size in {"lstm_size": lstm_size, "lstm_layers": lstm_layers}.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer; got {size!r}.")
    constants = {"temperature": temperature, "tanh_constant": tanh_constant, "op_tanh_reduce": op_tanh_reduce}
    for name, value in constants.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}.")
    if not 0 < skip_target < 1:
        raise ValueError(f"skip_target must lie between 0 and 1; got {skip_target!r}.")
