"""Test doubles of Amazon: an API (moto), the Pulumi plugin `aws` over it, and a host for its instances."""
