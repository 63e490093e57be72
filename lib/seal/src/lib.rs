//! Secrets in locked memory, and volume keys sealed to a card
