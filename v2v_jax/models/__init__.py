"""The networks. Each is a Linen module called on (B,T,H,W,C) and returning (B,T,H,W,K) float32."""

from v2v_jax.models.v2v import V2V

__all__ = ["V2V"]
