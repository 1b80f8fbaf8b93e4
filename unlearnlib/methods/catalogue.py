"""Every method's name and the module that registers it.

Modules are imported on first use, so that a page which uses two methods depends on the code of two methods; and the
table is no part of any result, so that a new method makes no page stale.
"""

HOMES = {
    "retrain": "unlearnlib.exact.retrain",
    "finetune": "unlearnlib.approximate.finetune",
    "cf_k": "unlearnlib.approximate.last_layers",
    "eu_k": "unlearnlib.approximate.last_layers",
    "neggrad": "unlearnlib.approximate.neggrad",
    "neggrad_plus": "unlearnlib.approximate.neggrad",
    "random_labels": "unlearnlib.approximate.random_labels",
    "amnesiac": "unlearnlib.approximate.amnesiac",
    "scrub": "unlearnlib.approximate.scrub",
    "scrub_r": "unlearnlib.approximate.scrub",
    "bad_teacher": "unlearnlib.approximate.bad_teacher",
    "delete": "unlearnlib.approximate.delete",
    "salun": "unlearnlib.approximate.salun",
    "sfron": "unlearnlib.approximate.sfron",
    "orthograd": "unlearnlib.approximate.orthograd",
    "l1_sparse": "unlearnlib.approximate.l1_sparse",
    "boundary_shrink": "unlearnlib.approximate.boundary",
    "boundary_expand": "unlearnlib.approximate.boundary",
    "unsir": "unlearnlib.approximate.unsir",
    "jit": "unlearnlib.approximate.jit",
    "fisher_forgetting": "unlearnlib.approximate.fisher_forgetting",
    "ntk": "unlearnlib.approximate.ntk",
    "ssd": "unlearnlib.approximate.ssd",
    "assd": "unlearnlib.approximate.assd",
    "lfssd": "unlearnlib.approximate.lfssd",
    "woodfisher": "unlearnlib.approximate.woodfisher",
    "dlfd": "unlearnlib.dlfd.as_written",
    "dlfd_as_released": "unlearnlib.dlfd.as_released",
    "influence": "unlearnlib.approximate.influence",
    "rescaled_influence": "unlearnlib.approximate.influence",
    "newton": "unlearnlib.approximate.newton",
    "unrolled_sgd": "unlearnlib.approximate.unrolled_sgd",
    "pbrf": "unlearnlib.approximate.pbrf",
    "datamodel_matching": "unlearnlib.attribution.matching",
}
