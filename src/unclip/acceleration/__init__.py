"""How an opened network computes, never what: int8, packing, tiles, offloading."""
