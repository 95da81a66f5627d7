"""Operations with the calling convention of `jax.lax`, written for speed inside a supernet."""

from jaxnas.ops.convolution import conv_general_dilated as conv_general_dilated
from jaxnas.ops.intercept import fast_convolutions as fast_convolutions
from jaxnas.ops.max_pool import max_pool as max_pool
from jaxnas.ops.normalization import batch_norm as batch_norm
from jaxnas.ops.normalization import batch_norm_sum as batch_norm_sum
from jaxnas.ops.pooling import avg_pool_3x3 as avg_pool_3x3
from jaxnas.ops.pooling import max_pool_3x3 as max_pool_3x3
