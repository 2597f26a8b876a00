// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Decides for every packet on our ports: dataplane or kernel. Takes ESP and AH to our addresses, UDP 4500 that
// carries ESP (RFC 3948), and plain packets that a protect selector covers. The kernel keeps the
// rest: IKE, ARP, SSH, routing protocols, IPv6, and for now fragments of what would be ours.
//
// It fails closed: what is ours and has no socket to go to is dropped, never passed.

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define MAX_VLAN_TAGS 2

#define PROTOCOL_UDP 17
#define PROTOCOL_ESP 50
#define PROTOCOL_AH 51
#define PORT_NAT_T 4500
#define UDP_HEADER 8
#define ESP_HEADER 8

#define FRAGMENT_MASK 0x3fff /* more fragments, or an offset */

/* Shared with src/lib.rs. */
#define QUEUES_PER_PORT 64
#define MAX_PORTS 16
#define MAX_LOCAL_ADDRESSES 1024
#define MAX_PREFIXES 65536

enum role { ROLE_INSIDE = 0, ROLE_OUTSIDE = 1 };

enum verdict {
	PASS_NOT_OURS = 0,   /* not IPv4, or nothing that we take */
	PASS_FRAGMENT = 1,   /* a fragment of ESP, AH or UDP to one of our addresses */
	PASS_IKE = 2,        /* UDP 4500 behind the zero marker, or a keepalive */
	PASS_MALFORMED = 3,  /* an IPv4 or UDP header that does not fit its packet */
	TAKE_ESP = 4,
	TAKE_AH = 5,
	TAKE_ESP_IN_UDP = 6,
	TAKE_PROTECT = 7,    /* plain, on an inside port: to be protected */
	TAKE_UNPROTECTED = 8, /* plain, on an outside port: to be counted and dropped */
	DROP_NO_SOCKET = 9,  /* ours, but no dataplane listens */
	VERDICTS = 10,
};

struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__be16 type;
};

struct vlan {
	__be16 control;
	__be16 type;
};

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__be32 source;
	__be32 destination;
};

struct udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
	__be32 marker; /* the first word of the payload */
};

/* The entry of port N has the number N; an interface index of 0 is no interface. */
struct port {
	__u32 interface;
	__u32 role;
};

struct prefix {
	__u32 length;
	__be32 address;
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
	__type(key, __be32);
	__type(value, __u8);
} local_addresses SEC(".maps");

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

static __always_inline int pass(__u32 verdict)
{
	count(verdict);
	return XDP_PASS;
}

static __always_inline int take(struct xdp_md *ctx, __u32 port, __u32 verdict)
{
	__u32 queue = ctx->rx_queue_index;
	int action = XDP_DROP;

	if (queue < QUEUES_PER_PORT)
		action = bpf_redirect_map(&xsks, port * QUEUES_PER_PORT + queue, XDP_DROP);
	count(action == XDP_REDIRECT ? verdict : DROP_NO_SOCKET);
	return action;
}

/* Destinations that never leave the link: 224.0.0.0/24 (routing protocols) and the limited broadcast. */
static __always_inline int stays_on_link(__be32 address)
{
	return (address & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000) ||
	       address == bpf_htonl(0xffffffff);
}

static __always_inline int covers(void *trie, __be32 address)
{
	struct prefix key = { .length = 32, .address = address };

	return bpf_map_lookup_elem(trie, &key) != 0;
}

/* A packet to one of our own addresses: ESP in any clothing is the dataplane's. */
static __always_inline int steer_local(struct xdp_md *ctx, __u32 port, struct ipv4 *ip)
{
	void *end = (void *)(long)ctx->data_end;
	struct udp *udp;
	__u32 header_length = (ip->version_ihl & 0x0f) * 4;
	__u8 protocol = ip->protocol;

	if (protocol != PROTOCOL_ESP && protocol != PROTOCOL_AH && protocol != PROTOCOL_UDP)
		return pass(PASS_NOT_OURS);
	if (ip->fragment & bpf_htons(FRAGMENT_MASK))
		return pass(PASS_FRAGMENT);
	if (protocol == PROTOCOL_ESP)
		return take(ctx, port, TAKE_ESP);
	if (protocol == PROTOCOL_AH)
		return take(ctx, port, TAKE_AH);

	udp = (void *)ip + header_length;
	if ((void *)udp + UDP_HEADER > end)
		return pass(PASS_MALFORMED);
	if (udp->destination != bpf_htons(PORT_NAT_T))
		return pass(PASS_NOT_OURS);
	/* By the UDP length: a short frame is padded, and the padding is not payload.
	 * RFC 3948 2.2 and 2.3: IKE has a zero word here, a keepalive is one byte long. */
	if (bpf_ntohs(udp->length) < UDP_HEADER + ESP_HEADER)
		return pass(PASS_IKE);
	if ((void *)(udp + 1) > end)
		return pass(PASS_MALFORMED);
	if (udp->marker == 0)
		return pass(PASS_IKE);
	return take(ctx, port, TAKE_ESP_IN_UDP);
}

/* A packet for somebody else: ours when a protect selector covers it, fragments as well. */
static __always_inline int steer_transit(struct xdp_md *ctx, __u32 port, __u32 role,
					 struct ipv4 *ip)
{
	if (stays_on_link(ip->destination))
		return pass(PASS_NOT_OURS);
	if (role == ROLE_INSIDE) {
		if (covers(&protected_remote, ip->destination) && covers(&protected_local, ip->source))
			return take(ctx, port, TAKE_PROTECT);
	} else {
		if (covers(&protected_remote, ip->source) && covers(&protected_local, ip->destination))
			return take(ctx, port, TAKE_UNPROTECTED);
	}
	return pass(PASS_NOT_OURS);
}

SEC("xdp.frags")
int esplanade_steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	struct port *found = 0;
	__u32 port;
	struct ipv4 *ip;
	void *next;
	__be16 type;

	/* Few ports, and lookups in an array are inlined: cheaper than a hash. */
#pragma unroll
	for (port = 0; port < MAX_PORTS; port++) {
		__u32 key = port;

		found = bpf_map_lookup_elem(&ports, &key);
		if (found && found->interface == ctx->ingress_ifindex)
			break;
	}
	if (port == MAX_PORTS || !found || (void *)(ethernet + 1) > end)
		return pass(PASS_NOT_OURS);

	type = ethernet->type;
	next = ethernet + 1;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan *tag = next;

		if (type != bpf_htons(ETHERTYPE_VLAN) && type != bpf_htons(ETHERTYPE_QINQ))
			break;
		if ((void *)(tag + 1) > end)
			return pass(PASS_NOT_OURS);
		type = tag->type;
		next = tag + 1;
	}
	if (type != bpf_htons(ETHERTYPE_IPV4))
		return pass(PASS_NOT_OURS);

	ip = next;
	if ((void *)(ip + 1) > end)
		return pass(PASS_MALFORMED);
	if (ip->version_ihl >> 4 != 4 || (ip->version_ihl & 0x0f) < 5)
		return pass(PASS_MALFORMED);

	if (bpf_map_lookup_elem(&local_addresses, &ip->destination))
		return steer_local(ctx, port, ip);
	return steer_transit(ctx, port, found->role, ip);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
