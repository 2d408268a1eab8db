"""T3 and T5: reach anybody by a socket: the network, services of the user, this machine."""

import os
import socket

from tests.attacks.scripts.common import TARGET, call, step

TCP = ("127.0.0.1", TARGET.get("tcp", 0))
UDP = ("127.0.0.1", TARGET.get("udp", 0))
STREAM, DATAGRAM = TARGET.get("unix_stream", ""), TARGET.get("unix_datagram", "")
MSG_FASTOPEN = 0x20000000


def reach(family: int, kind: int, address: object, protocol: int = 0) -> object:
    """Connect and say something."""
    with socket.socket(family, kind, protocol) as made:
        made.settimeout(5)
        made.connect(address)  # type: ignore[arg-type]
        return made.send(b"attack")


@step
def connects_by_tcp() -> object:
    return reach(socket.AF_INET, socket.SOCK_STREAM, TCP)


@step
def connects_by_tcp_to_an_ipv6_name_of_it() -> object:
    return reach(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", TCP[1]))


@step
def connects_by_tcp_with_its_first_packet() -> object:
    with socket.socket() as made:
        return made.sendto(b"attack", MSG_FASTOPEN, TCP)


@step
def connects_by_a_raw_call() -> object:
    with socket.socket(fileno=call(41, socket.AF_INET, socket.SOCK_STREAM, 0)) as made:
        made.connect(TCP)
        return made.send(b"attack")


@step
def connects_by_multipath_tcp() -> object:
    return reach(socket.AF_INET, socket.SOCK_STREAM, TCP, 262)


@step
def listens_by_tcp() -> object:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        return True


@step
def sends_by_udp() -> object:
    return reach(socket.AF_INET, socket.SOCK_DGRAM, UDP)


@step
def sends_by_udp_unconnected() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return made.sendto(b"attack", UDP)


@step
def makes_a_raw_socket() -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)


@step
def makes_a_packet_socket() -> object:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)


@step
def makes_a_vsock() -> object:
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)


@step
def makes_a_crypto_socket() -> object:
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)


@step
def makes_a_netlink_socket_of_the_audit() -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)


@step
def makes_a_netlink_socket_of_devices() -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)


@step
def connects_to_a_service_of_the_user() -> object:
    """As those of docker, D-Bus and ssh-agent are."""
    return reach(socket.AF_UNIX, socket.SOCK_STREAM, STREAM)


@step
def connects_to_an_abstract_socket() -> object:
    return reach(socket.AF_UNIX, socket.SOCK_STREAM, TARGET["abstract"].replace("@", "\0"))


@step
def sends_to_a_service_of_the_user() -> object:
    return reach(socket.AF_UNIX, socket.SOCK_DGRAM, DATAGRAM)


@step
def sends_from_one_of_a_pair() -> object:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"attack", DATAGRAM)


@step
def sends_from_one_of_a_raw_pair() -> object:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)
    return one.sendto(b"attack", DATAGRAM)


@step
def connects_one_of_a_pair_again() -> object:
    one, other = socket.socketpair()
    other.close()
    one.connect(STREAM)
    return True


@step
def connects_a_socket_that_it_has_already() -> object:
    got = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as made:
                for address in (STREAM, DATAGRAM):
                    try:
                        made.connect(address)
                        got.append(name)
                    except OSError:
                        pass
        except OSError:
            continue
    return got
