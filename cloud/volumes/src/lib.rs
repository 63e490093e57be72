//! Encrypted volumes: metadata, and images written through a card
