"""What lies between encoder and decoder: KL, VQ, FSQ and LFQ behind one contract.

A configuration (`BottleneckConfig`) makes a module that is called with what the encoder gives::

    bottleneck = FSQConfig(levels=(8, 5, 5, 5)).make_model()
    latent = bottleneck.apply({"params": params}, h, key)           # a `Latent`
    values = bottleneck.apply({"params": params}, latent.codes, method="values")
"""

from jaxgen.compressors.bottlenecks.codebook_averages import CodebookStatistics, update_codebook
from jaxgen.compressors.bottlenecks.codebook_usage import (
    code_counts,
    codebook_perplexity,
    total_code_counts,
)
from jaxgen.compressors.bottlenecks.finite_scalar import FiniteScalarQuantizer, FSQConfig
from jaxgen.compressors.bottlenecks.gaussian_bottleneck import KLBottleneck, KLConfig
from jaxgen.compressors.bottlenecks.latent import BottleneckConfig, Latent
from jaxgen.compressors.bottlenecks.lookup_free import LFQConfig, LookupFreeQuantizer
from jaxgen.compressors.bottlenecks.vector_quantizer import VectorQuantizer, VQConfig

__all__ = [
    "BottleneckConfig",
    "CodebookStatistics",
    "FSQConfig",
    "FiniteScalarQuantizer",
    "KLBottleneck",
    "KLConfig",
    "LFQConfig",
    "Latent",
    "LookupFreeQuantizer",
    "VQConfig",
    "VectorQuantizer",
    "code_counts",
    "codebook_perplexity",
    "total_code_counts",
    "update_codebook",
]
