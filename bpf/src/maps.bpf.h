/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What the program knows and counts. The shapes and numbers are shared with lib.rs, prefix.rs and verdict.rs.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define QUEUES_PER_PORT 64
#define MAX_PORTS 16
#define MAX_LOCAL_ADDRESSES 1024
#define MAX_PREFIXES 65536
#define MAX_FRAGMENTED 4096

enum role { ROLE_INSIDE = 0, ROLE_OUTSIDE = 1 };

enum verdict {
	PASS_NOT_OURS = 0,   /* no IP, or nothing that we take */
	PASS_FRAGMENT = 1,   /* a fragment of IKE, or one whose first is not known */
	PASS_IKE = 2,        /* UDP 500, UDP 4500 behind the zero marker, or a keepalive */
	PASS_MALFORMED = 3,  /* an IP or UDP header that does not fit its packet */
	TAKE_ESP = 4,
	TAKE_AH = 5,
	TAKE_ESP_IN_UDP = 6,
	TAKE_PROTECT = 7,    /* plain, on an inside port: to be protected */
	TAKE_UNPROTECTED = 8, /* plain, on an outside port: to be counted and dropped */
	DROP_NO_SOCKET = 9,  /* ours, but no dataplane listens */
	PASS_INSIDE = 10,    /* covered by a protect selector, but from inside and for inside */
	PASS_ICMP_ERROR = 11, /* covered by a protect selector, but about our own IKE */
	TAKE_ICMP_ERROR = 12, /* about our own ESP or AH, plain or in UDP 4500 */
	PASS_NEIGHBOR = 13,  /* neighbour discovery or multicast listener discovery */
	VERDICTS = 14,
};

/* An address with its family, 4 or 6; one of IPv4 is followed by zeros. */
struct address {
	__u32 family;
	__u8 octets[16];
};

/* The entry of port N has the number N; an interface index of 0 is no interface. A VLAN identifier of 0 is no tag. */
struct port {
	__u32 interface;
	__u32 role;
	__u16 outer_vlan;
	__u16 inner_vlan;
};

/* The length counts the 32 bits of the family, too. */
struct prefix {
	__u32 length;
	struct address address;
};

/* A prefix at the other end of one of our addresses; the length counts all bits of the latter, with its family. */
struct prefix_of {
	__u32 length;
	struct address ours;
	__u8 octets[16];
};

/* A packet that comes in fragments (RFC 791 3.2; RFC 8200 4.5). */
struct fragmented {
	struct address source;
	__u8 destination[16];
	__u32 id;
	__u32 protocol;
};

/* What its first fragment was taken for, until when. */
struct first_fragment {
	__u64 until_ns;
	__u64 verdict;
};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_PORTS * QUEUES_PER_PORT);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_PORTS);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LOCAL_ADDRESSES);
	__type(key, struct address);
	__type(value, __u8);
} local_addresses SEC(".maps");

/* The value of a prefix is one more than its length within its family: 0 stands for none. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} protected_local SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} protected_remote SEC(".maps");

/* The remote prefixes of those pairs whose local prefix covers one of our own addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_of);
	__type(value, __u8);
} protected_own SEC(".maps");

/* What does not leave when it comes from inside: the networks there, and the gateway itself. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u8);
} inside SEC(".maps");

/* Packets in fragments whose first one was taken; the kernel forgets the one that was used least recently. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__type(key, struct fragmented);
	__type(value, struct first_fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} steer_counters SEC(".maps");

static __always_inline void count(__u32 verdict)
{
	__u64 *counter = bpf_map_lookup_elem(&steer_counters, &verdict);

	if (counter)
		*counter += 1;
}

/* One more than the length of the longest prefix that covers an address; 0 if none does. */
static __always_inline __u32 covers(void *trie, const struct address *address)
{
	struct prefix key = { .length = 32 + (address->family == 4 ? 32 : 128), .address = *address };
	__u8 *value = bpf_map_lookup_elem(trie, &key);

	return value ? *value : 0;
}
