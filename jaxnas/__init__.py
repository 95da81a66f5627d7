from jaxnas.choices import NO_KEY, InputChoice, LayerChoice
from jaxnas.space import Space, space
from jaxnas.serialization import export, load
from jaxnas.fixed import apply_fixed_architecture, inherit
