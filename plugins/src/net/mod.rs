//! What several network plugins share.
