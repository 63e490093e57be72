//! Guest memory that a card reaches by DMA maps
