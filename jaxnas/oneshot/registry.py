"""Every method of this package, for the command line, README's table, and the tests that all of them pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxnas.oneshot import (
    beta_darts,
    darts,
    darts_minus,
    darts_pt,
    drnas,
    enas,
    fair_darts,
    fairnas,
    fbnet,
    gaea,
    gdas,
    oles,
    p_darts,
    pc_darts,
    proxyless,
    rsps,
    sdarts,
    setn,
    snas,
    spos,
)
from jaxnas.oneshot.engine.base import Method

METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "beta_darts": beta_darts.method,
        "darts": darts.method,
        "darts_minus": darts_minus.method,
        "darts_pt": darts_pt.method,
        "drnas": drnas.method,
        "enas": enas.method,
        "fair_darts": fair_darts.method,
        "fairnas": fairnas.method,
        "fbnet": fbnet.method,
        "gaea": gaea.method,
        "gdas": gdas.method,
        "oles": oles.method,
        "p_darts": p_darts.method,
        "pc_darts": pc_darts.method,
        "proxyless": proxyless.method,
        "rsps": rsps.method,
        "sdarts": sdarts.method,
        "setn": setn.method,
        "snas": snas.method,
        "spos": spos.method,
    }
)
"""Name -> the function `method` of its file, which gives a `Method` for `jaxnas.search`."""
