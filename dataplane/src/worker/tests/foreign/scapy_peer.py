"""Opens and seals packets by scapy for the tests of the worker: a task a line on standard input, an answer a line on standard
output. A task is names and values; bytes are hexadecimal."""

import sys

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, ESP, SecurityAssociation
from scapy.packet import Raw


def bytes_of(task, name):
    return bytes.fromhex(task.get(name, ""))


def parse(packet):
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def association(task):
    header = None
    if task["mode"] == "tunnel":
        header = (IPv6 if ":" in task["source"] else IP)(src=task["source"], dst=task["destination"])
    return SecurityAssociation(
        AH if task["protocol"] == "ah" else ESP,
        spi=int(task["spi"]),
        crypt_algo=task.get("cipher"),
        crypt_key=bytes_of(task, "key") or None,
        auth_algo=task.get("integrity"),
        auth_key=bytes_of(task, "integrity_key") or None,
        tunnel_header=header,
        nat_t_header=UDP(sport=4500, dport=4500) if task["udp"] == "true" else None,
        esn_en=task["esn"] == "true",
        esn=int(task["high"]),
    )


def work(task):
    packet = bytes_of(task, "packet")
    sa = association(task)
    if task["do"] == "seal":
        sealed = sa.encrypt(parse(packet), seq_num=int(task["sequence"]))
        if task["udp"] == "true":
            # Over IPv4 scapy takes the length of the datagram before ESP is in it.
            del sealed[UDP].len
        return bytes(sealed)
    outer = parse(packet)
    if task["udp"] == "true":
        # scapy sees ESP in UDP 4500 by itself; it wants the ESP right behind the IP header.
        esp = ESP(bytes(outer[UDP].payload))
        outer[UDP].underlayer.remove_payload()
        if outer.version == 4:
            outer.proto = 50
            del outer.len, outer.chksum
        else:
            outer.nh = 50
            del outer.plen
        outer = parse(bytes(outer / Raw(bytes(esp))))
    return bytes(sa.decrypt(outer))


for line in sys.stdin:
    task = dict(pair.split("=", 1) for pair in line.split())
    try:
        print("ok", work(task).hex())
    except Exception as why:  # whatever scapy says is the answer
        print("failed", type(why).__name__, str(why).replace("\n", " "))
    sys.stdout.flush()
