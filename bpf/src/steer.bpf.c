// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Decides for every packet on our ports: dataplane or kernel. Takes ESP and AH to our addresses, UDP 4500 that
// carries ESP (RFC 3948), and plain packets that a protect selector covers. The kernel keeps the
// rest: IKE, ARP, SSH, routing protocols, IPv6, fragments of what would be ours, and what comes from inside and
// stays there, however wide the selectors are.
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

#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17
#define PROTOCOL_ESP 50
#define PROTOCOL_AH 51
#define PORT_IKE 500
#define PORT_NAT_T 4500
#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define UDP_HEADER 8
#define ESP_HEADER 8

#define FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define OFFSET_MASK 0x1fff

/* Shared with src/lib.rs. */
#define QUEUES_PER_PORT 64
#define MAX_PORTS 16
#define MAX_LOCAL_ADDRESSES 1024
#define MAX_PREFIXES 65536

enum role { ROLE_INSIDE = 0, ROLE_OUTSIDE = 1 };

enum verdict {
	PASS_NOT_OURS = 0,   /* not IPv4, or nothing that we take */
	PASS_FRAGMENT = 1,   /* a fragment of ESP, AH or IKE to one of our addresses */
	PASS_IKE = 2,        /* UDP 500, UDP 4500 behind the zero marker, or a keepalive */
	PASS_MALFORMED = 3,  /* an IPv4 or UDP header that does not fit its packet */
	TAKE_ESP = 4,
	TAKE_AH = 5,
	TAKE_ESP_IN_UDP = 6,
	TAKE_PROTECT = 7,    /* plain, on an inside port: to be protected */
	TAKE_UNPROTECTED = 8, /* plain, on an outside port: to be counted and dropped */
	DROP_NO_SOCKET = 9,  /* ours, but no dataplane listens */
	PASS_INSIDE = 10,    /* covered by a protect selector, but from inside and for inside */
	PASS_ICMP_ERROR = 11, /* covered by a protect selector, but about our own ESP, AH or IKE */
	VERDICTS = 12,
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

/* RFC 792: an error quotes the header and the first 8 octets of the packet that it is about. */
struct icmp_error {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 unused;
	struct ipv4 quoted;
	__be16 source_port;
	__u8 rest[6];
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

/* A prefix at the other end of one of our addresses; the length counts all 32 bits of the latter. */
struct prefix_of {
	__u32 length;
	__be32 ours;
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

/* The value of a prefix is one more than its length: 0 stands for none. */
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

/* One more than the length of the longest prefix that covers an address; 0 if none does. */
static __always_inline __u32 covers(void *trie, __be32 address)
{
	struct prefix key = { .length = 32, .address = address };
	__u8 *value = bpf_map_lookup_elem(trie, &key);

	return value ? *value : 0;
}

/* Whether one pair covers both ends of a packet to one of our own addresses. */
static __always_inline int covers_own(struct ipv4 *ip)
{
	struct prefix_of key = { .length = 64, .ours = ip->destination, .address = ip->source };

	return bpf_map_lookup_elem(&protected_own, &key) != 0;
}

/* Whether an ICMP packet to one of our own addresses is an error about our ESP, AH or IKE: what path MTU discovery
 * and a peer's absence are known by. We send no IP options, so a quoted header has none. */
static __always_inline int is_error_about_ours(struct xdp_md *ctx, struct ipv4 *ip)
{
	void *end = (void *)(long)ctx->data_end;
	struct icmp_error *error = (void *)ip + (ip->version_ihl & 0x0f) * 4;

	if (ip->protocol != PROTOCOL_ICMP || ip->fragment & bpf_htons(FRAGMENT_MASK))
		return 0;
	if ((void *)(error + 1) > end)
		return 0;
	if (error->type != ICMP_UNREACHABLE && error->type != ICMP_TIME_EXCEEDED &&
	    error->type != ICMP_PARAMETER_PROBLEM)
		return 0;
	if (error->quoted.version_ihl != 0x45 || error->quoted.source != ip->destination)
		return 0;
	if (error->quoted.protocol == PROTOCOL_UDP)
		return error->source_port == bpf_htons(PORT_IKE) ||
		       error->source_port == bpf_htons(PORT_NAT_T);
	return error->quoted.protocol == PROTOCOL_ESP || error->quoted.protocol == PROTOCOL_AH;
}

/* A plain packet to one of our own addresses. RFC 4301 5.2: "Traffic not addressed to this device, or addressed to
 * this device and not AH or ESP, is directed to SPD-I lookup." */
static __always_inline int steer_own_plain(struct xdp_md *ctx, __u32 port, __u32 role,
					   struct ipv4 *ip)
{
	if (role != ROLE_OUTSIDE || !covers_own(ip))
		return pass(PASS_NOT_OURS);
	if (is_error_about_ours(ctx, ip))
		return pass(PASS_ICMP_ERROR);
	return take(ctx, port, TAKE_UNPROTECTED);
}

/* UDP to one of our own addresses. RFC 4301 5.2: "IKE traffic MUST have an explicit BYPASS entry in the SPD". */
static __always_inline int steer_own_udp(struct xdp_md *ctx, __u32 port, __u32 role,
					 struct ipv4 *ip)
{
	void *end = (void *)(long)ctx->data_end;
	struct udp *udp = (void *)ip + (ip->version_ihl & 0x0f) * 4;

	/* Of no use to anybody without the first, which has the ports. */
	if (ip->fragment & bpf_htons(OFFSET_MASK))
		return pass(PASS_FRAGMENT);
	if ((void *)udp + UDP_HEADER > end)
		return pass(PASS_MALFORMED);
	if (udp->destination != bpf_htons(PORT_IKE) && udp->destination != bpf_htons(PORT_NAT_T))
		return steer_own_plain(ctx, port, role, ip);
	if (ip->fragment & bpf_htons(FRAGMENT_MASK))
		return pass(PASS_FRAGMENT);
	if (udp->destination == bpf_htons(PORT_IKE))
		return pass(PASS_IKE);
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

/* A packet to one of our own addresses: ESP in any clothing is the dataplane's. */
static __always_inline int steer_own(struct xdp_md *ctx, __u32 port, __u32 role, struct ipv4 *ip)
{
	__u8 protocol = ip->protocol;

	if (protocol == PROTOCOL_UDP)
		return steer_own_udp(ctx, port, role, ip);
	if (protocol != PROTOCOL_ESP && protocol != PROTOCOL_AH)
		return steer_own_plain(ctx, port, role, ip);
	if (ip->fragment & bpf_htons(FRAGMENT_MASK))
		return pass(PASS_FRAGMENT);
	return take(ctx, port, protocol == PROTOCOL_ESP ? TAKE_ESP : TAKE_AH);
}

/* From inside, ours when a protect selector covers it. RFC 4301 3.1: "Traffic traversing the boundary is subject to
 * the access controls": what stays inside traverses none, unless a protected prefix is as long as the network. */
static __always_inline int steer_outbound(struct xdp_md *ctx, __u32 port, struct ipv4 *ip)
{
	__u32 remote = covers(&protected_remote, ip->destination);

	if (!remote || !covers(&protected_local, ip->source))
		return pass(PASS_NOT_OURS);
	if (covers(&inside, ip->destination) > remote)
		return pass(PASS_INSIDE);
	return take(ctx, port, TAKE_PROTECT);
}

/* From outside and for somebody behind us: what a protect selector covers should have come in ESP. */
static __always_inline int steer_inbound(struct xdp_md *ctx, __u32 port, struct ipv4 *ip)
{
	if (covers(&protected_remote, ip->source) && covers(&protected_local, ip->destination))
		return take(ctx, port, TAKE_UNPROTECTED);
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
		return steer_own(ctx, port, found->role, ip);
	if (stays_on_link(ip->destination))
		return pass(PASS_NOT_OURS);
	if (found->role == ROLE_INSIDE)
		return steer_outbound(ctx, port, ip);
	return steer_inbound(ctx, port, ip);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
