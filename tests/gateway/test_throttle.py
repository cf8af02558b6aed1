"""Whoever guesses keys is slowed down; nobody else is."""

from gateway.access.throttle import WrongKeyThrottle, throttle_bucket
from gateway.front.proxies import TrustedProxies


def test_wrong_keys_beyond_the_bound_wait_for_the_window_to_end() -> None:
    throttle = WrongKeyThrottle(per_minute=2)
    assert throttle.wrong("10.0.0.1", 0.0) is None
    assert throttle.wrong("10.0.0.1", 10.0) is None
    assert throttle.wrong("10.0.0.1", 20.0) == 40.0
    assert throttle.wrong("10.0.0.2", 20.0) is None
    assert throttle.wrong("10.0.0.1", 60.0) is None


def test_table_of_addresses_is_bounded() -> None:
    throttle = WrongKeyThrottle(per_minute=1, entries=10)
    for number in range(1000):
        throttle.wrong(f"10.0.{number // 250}.{number % 250}", 0.0)
    assert repr(throttle) == "<WrongKeyThrottle 10 addresses>"


def test_one_ipv6_subscriber_is_one_sender() -> None:
    assert throttle_bucket("2001:db8:0:1::1") == throttle_bucket("2001:db8:0:1:ffff::2")
    assert throttle_bucket("2001:db8:0:1::1") != throttle_bucket("2001:db8:0:2::1")
    assert throttle_bucket("::ffff:10.0.0.1") == "10.0.0.1"
    assert throttle_bucket("local") == "local"


def test_forwarded_address_counts_only_behind_a_trusted_proxy() -> None:
    nobody = TrustedProxies()
    assert nobody.client("10.0.0.1", "1.2.3.4") == "10.0.0.1"
    proxies = TrustedProxies(["10.0.0.0/8"])
    assert proxies.client("10.0.0.1", "1.2.3.4") == "1.2.3.4"
    assert proxies.client("192.0.2.1", "1.2.3.4") == "192.0.2.1"


def test_rightmost_untrusted_hop_is_the_client() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    assert proxies.client("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.9") == "1.2.3.4"
    assert proxies.client("10.0.0.1", "nonsense, 10.0.0.9") == "10.0.0.9"
    assert proxies.client("10.0.0.1", None) == "10.0.0.1"
