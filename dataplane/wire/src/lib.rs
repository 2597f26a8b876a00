//! Checked views and builders of the packets that an IPsec gateway handles.
