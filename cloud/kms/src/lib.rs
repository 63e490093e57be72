//! Customer keys, grants, and volume keys sealed to a card
