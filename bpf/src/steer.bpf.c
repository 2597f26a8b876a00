// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
//
// Decides for every packet on our ports: dataplane or kernel. Takes ESP and AH to our addresses, UDP 4500 that
// carries ESP (RFC 3948), fragments of these, ICMP errors about them, and plain packets that a protect selector
// covers, of IPv4 and IPv6. The kernel keeps the rest: IKE, ARP, neighbour discovery, SSH, routing protocols, and what
// comes from inside and stays there, however wide the selectors are.
//
// It fails closed: what is ours and has no socket to go to is dropped, never passed. Only ICMP errors pass then.

#include "packet.bpf.h"

#define PORT_IKE 500
#define PORT_NAT_T 4500
#define UDP_HEADER 8
#define ESP_HEADER 8

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
/* RFC 4443 2.1: "ICMPv6 error messages have message types from 0 to 127". RFC 4443 3 defines 1 to 4. */
#define ICMPV6_FIRST_ERROR 1
#define ICMPV6_LAST_ERROR 4
/* RFC 2710 3 and RFC 3810 5.2. */
#define MLD_FIRST 130
#define MLD_LAST 132
#define MLD_REPORT_V2 143
/* RFC 4861 4. */
#define ND_FIRST 133
#define ND_LAST 137
#define ND_HOP_LIMIT 255

/* RFC 791 3.2 has a receiver wait 15 seconds for fragments. Links that still reorder bring them within this; a longer
 * memory would see identifiers come again, of which IPv4 has 65,536. */
#define FRAGMENT_MEMORY_NS 1000000000ULL

struct udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
};

/* RFC 792 and RFC 4443 3: an error quotes the packet that it is about behind 8 octets of its own. */
struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u32 rest;
};

/* RFC 792: "Internet Header + 64 bits of Original Data Datagram". We send no options. */
struct quoted_ipv4 {
	struct icmp icmp;
	struct ipv4 ip;
	__be16 source_port;
	__u8 rest[6];
};

/* RFC 4443 2.4 (c): "As much of the IPv6 offending packet as possible". We send no extension headers but of fragments. */
struct quoted_ipv6 {
	struct icmp icmp;
	struct ipv6 ip;
	__be16 source_port;
	__u8 rest[6];
};

/* What an ICMP message is about. */
enum about { ABOUT_OTHER, ABOUT_IKE, ABOUT_ESP };

/* A packet on one of our ports. */
struct arrival {
	struct packet packet;
	__u32 port;
	__u32 role;
	__u32 surplus; /* tags that the dataplane is not to see */
};

static __always_inline int pass(__u32 verdict)
{
	count(verdict);
	return XDP_PASS;
}

/* Takes outer tags away. A port that is no VLAN gets its frames without any, one that is with the last: the ports of an
 * interface share the sockets of its queues, and this says whose a frame is. */
static __always_inline int strip(struct xdp_md *ctx, __u32 tags)
{
	__u8 addresses[MAC_ADDRESSES];

	if (!tags)
		return 0;
	if (bpf_xdp_load_bytes(ctx, 0, addresses, sizeof(addresses)) < 0)
		return -1;
	if (bpf_xdp_adjust_head(ctx, tags == 1 ? VLAN_TAG : 2 * VLAN_TAG) < 0)
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, addresses, sizeof(addresses));
}

/* Sends a packet to the dataplane; `otherwise` is what becomes of it when none listens. */
static __always_inline int redirect(struct xdp_md *ctx, const struct arrival *arrival, __u32 verdict,
				    __u32 otherwise)
{
	__u32 queue = ctx->rx_queue_index;
	int action = otherwise;

	if (queue < QUEUES_PER_PORT)
		action = bpf_redirect_map(&xsks, arrival->port * QUEUES_PER_PORT + queue, otherwise);
	if (action == XDP_REDIRECT && strip(ctx, arrival->surplus) < 0)
		action = XDP_DROP;
	if (action == XDP_REDIRECT)
		count(verdict);
	else
		count(action == XDP_PASS ? PASS_ICMP_ERROR : DROP_NO_SOCKET);
	return action;
}

static __always_inline int take(struct xdp_md *ctx, const struct arrival *arrival, __u32 verdict)
{
	return redirect(ctx, arrival, verdict, XDP_DROP);
}

/* Addresses of the link: IPv4's 224.0.0.0/24 (routing protocols) and limited broadcast; IPv6's fe80::/10 and multicast
 * groups of no wider scope (RFC 4291 2.5.6 and 2.7). RFC 4291 2.5.6: "Routers must not forward any packets with
 * Link-Local source or destination addresses to other links." */
static __always_inline int is_of_link(const struct address *address)
{
	const __u8 *octets = address->octets;

	if (address->family == 4)
		return (octets[0] == 224 && octets[1] == 0 && octets[2] == 0) ||
		       (octets[0] & octets[1] & octets[2] & octets[3]) == 255;
	return (octets[0] == 0xfe && (octets[1] & 0xc0) == 0x80) ||
	       (octets[0] == 0xff && (octets[1] & 0x0f) <= 2);
}

static __always_inline int stays_on_link(const struct packet *packet)
{
	return is_of_link(&packet->destination) ||
	       (packet->source.family == 6 && is_of_link(&packet->source));
}

/* What the kernel's IPv6 cannot live without, whatever addresses it has. RFC 4861 6.1 and 7.1: what does not come from the
 * link has a lower hop limit, and is to be discarded. RFC 2710 3 and RFC 3810 5: multicast listeners' have one of 1. */
static __always_inline int is_neighbor_discovery(struct xdp_md *ctx, const struct packet *packet)
{
	__u8 type;

	if (packet->protocol != PROTOCOL_ICMPV6 || packet->fragment != WHOLE)
		return 0;
	if (packet->source.family != 6)
		return 0;
	if (bpf_xdp_load_bytes(ctx, packet->transport, &type, sizeof(type)) < 0)
		return 0;
	if (type >= ND_FIRST && type <= ND_LAST)
		return packet->hop_limit == ND_HOP_LIMIT;
	return packet->hop_limit == 1 &&
	       ((type >= MLD_FIRST && type <= MLD_LAST) || type == MLD_REPORT_V2);
}

/* Whether one pair covers both ends of a packet to one of our own addresses. */
static __always_inline int covers_own(const struct packet *packet)
{
	__u32 bits = packet->source.family == 4 ? 32 : 128;
	struct prefix_of key = { .length = 8 * sizeof(struct address) + bits,
				 .ours = packet->destination };

	__builtin_memcpy(key.octets, packet->source.octets, sizeof(key.octets));
	return bpf_map_lookup_elem(&protected_own, &key) != 0;
}

/* What a quoted packet is, of which the first port was read; `ours` is whether we sent it. */
static __always_inline int about(__u8 protocol, __be16 source_port, int ours)
{
	if (!ours)
		return ABOUT_OTHER;
	if (protocol == PROTOCOL_ESP || protocol == PROTOCOL_AH)
		return ABOUT_ESP;
	if (protocol != PROTOCOL_UDP)
		return ABOUT_OTHER;
	if (source_port == bpf_htons(PORT_NAT_T))
		return ABOUT_ESP;
	return source_port == bpf_htons(PORT_IKE) ? ABOUT_IKE : ABOUT_OTHER;
}

/* The compiler has no memcmp to call. */
static __always_inline int same_octets(const __u8 *one, const __u8 *other, int count)
{
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < 16; i++)
		if (i < count)
			difference |= one[i] ^ other[i];
	return !difference;
}

static __always_inline int about_ipv4(struct xdp_md *ctx, const struct packet *packet)
{
	struct quoted_ipv4 error;
	int ours;

	if (packet->protocol != PROTOCOL_ICMP)
		return ABOUT_OTHER;
	if (bpf_xdp_load_bytes(ctx, packet->transport, &error, sizeof(error)) < 0)
		return ABOUT_OTHER;
	if (error.icmp.type != ICMP_UNREACHABLE && error.icmp.type != ICMP_TIME_EXCEEDED &&
	    error.icmp.type != ICMP_PARAMETER_PROBLEM)
		return ABOUT_OTHER;
	ours = error.ip.version_ihl == 0x45 &&
	       same_octets(error.ip.source, packet->destination.octets, 4);
	return about(error.ip.protocol, error.source_port, ours);
}

static __always_inline int about_ipv6(struct xdp_md *ctx, const struct packet *packet)
{
	struct quoted_ipv6 error;
	int ours;

	if (packet->protocol != PROTOCOL_ICMPV6)
		return ABOUT_OTHER;
	if (bpf_xdp_load_bytes(ctx, packet->transport, &error, sizeof(error)) < 0)
		return ABOUT_OTHER;
	if (error.icmp.type < ICMPV6_FIRST_ERROR || error.icmp.type > ICMPV6_LAST_ERROR)
		return ABOUT_OTHER;
	ours = error.ip.version >> 4 == 6 &&
	       same_octets(error.ip.source, packet->destination.octets, 16);
	return about(error.ip.next_header, error.source_port, ours);
}

/* What a packet to one of our own addresses is about, if it is an ICMP error: path MTU discovery and a peer's absence are
 * known by these. */
static __always_inline int error_about(struct xdp_md *ctx, const struct packet *packet)
{
	if (packet->fragment != WHOLE)
		return ABOUT_OTHER;
	if (packet->source.family == 4)
		return about_ipv4(ctx, packet);
	return about_ipv6(ctx, packet);
}

/* A plain packet to one of our own addresses. RFC 4301 5.2: "Traffic not addressed to this device, or addressed to
 * this device and not AH or ESP, is directed to SPD-I lookup." Gives the verdict. */
static __always_inline __u32 judge_own_plain(struct xdp_md *ctx, const struct arrival *arrival)
{
	int error;

	if (arrival->role != ROLE_OUTSIDE)
		return PASS_NOT_OURS;
	error = error_about(ctx, &arrival->packet);
	if (error == ABOUT_ESP)
		return TAKE_ICMP_ERROR;
	if (!covers_own(&arrival->packet))
		return PASS_NOT_OURS;
	return error == ABOUT_IKE ? PASS_ICMP_ERROR : TAKE_UNPROTECTED;
}

/* UDP to one of our own addresses. RFC 4301 5.2: "IKE traffic MUST have an explicit BYPASS entry in the SPD". */
static __always_inline __u32 judge_own_udp(struct xdp_md *ctx, const struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;
	__u32 pass_ike = packet->fragment == WHOLE ? PASS_IKE : PASS_FRAGMENT;
	struct udp udp;
	__be32 marker;

	if (bpf_xdp_load_bytes(ctx, packet->transport, &udp, sizeof(udp)) < 0)
		return PASS_MALFORMED;
	if (udp.destination == bpf_htons(PORT_IKE))
		return pass_ike;
	if (udp.destination != bpf_htons(PORT_NAT_T))
		return judge_own_plain(ctx, arrival);
	/* By the UDP length: a short frame is padded, and the padding is not payload.
	 * RFC 3948 2.2 and 2.3: IKE has a zero word here, a keepalive is one byte long. */
	if (bpf_ntohs(udp.length) < UDP_HEADER + ESP_HEADER)
		return pass_ike;
	if (bpf_xdp_load_bytes(ctx, packet->transport + UDP_HEADER, &marker, sizeof(marker)) < 0)
		return packet->fragment == WHOLE ? PASS_MALFORMED : PASS_FRAGMENT;
	return marker == 0 ? pass_ike : TAKE_ESP_IN_UDP;
}

static __always_inline void name_fragmented(const struct packet *packet, struct fragmented *name)
{
	name->source = packet->source;
	__builtin_memcpy(name->destination, packet->destination.octets, sizeof(name->destination));
	name->id = packet->id;
	name->protocol = packet->fragmentable;
}

/* The first fragment of a packet decides for the rest; of what passes there is nothing to remember. */
static __always_inline void remember(const struct packet *packet, __u32 verdict)
{
	struct first_fragment first = { .until_ns = bpf_ktime_get_ns() + FRAGMENT_MEMORY_NS,
					.verdict = verdict };
	struct fragmented name = {};

	name_fragmented(packet, &name);
	if (verdict == TAKE_ESP_IN_UDP || verdict == TAKE_ESP || verdict == TAKE_AH ||
	    verdict == TAKE_UNPROTECTED)
		bpf_map_update_elem(&fragments, &name, &first, BPF_ANY);
	else
		/* Another packet had this name before. */
		bpf_map_delete_elem(&fragments, &name);
}

/* A fragment that has no transport header. What nobody knows the first fragment of passes: it may be IKE. */
static __always_inline __u32 judge_own_later(struct xdp_md *ctx, const struct arrival *arrival)
{
	struct fragmented name = {};
	struct first_fragment *first;

	name_fragmented(&arrival->packet, &name);
	first = bpf_map_lookup_elem(&fragments, &name);
	if (first && bpf_ktime_get_ns() < first->until_ns)
		return first->verdict;
	if (arrival->packet.protocol == PROTOCOL_UDP || is_extension(arrival->packet.protocol))
		return PASS_FRAGMENT;
	return judge_own_plain(ctx, arrival);
}

/* A packet to one of our own addresses: ESP in any clothing is the dataplane's. */
static __always_inline __u32 judge_own(struct xdp_md *ctx, const struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;

	/* All fragments of these say so themselves, in whatever order they come. */
	if (packet->protocol == PROTOCOL_ESP)
		return TAKE_ESP;
	if (packet->protocol == PROTOCOL_AH)
		return TAKE_AH;
	if (packet->fragment == LATER)
		return judge_own_later(ctx, arrival);
	if (packet->protocol == PROTOCOL_UDP)
		return judge_own_udp(ctx, arrival);
	return judge_own_plain(ctx, arrival);
}

static __always_inline int steer_own(struct xdp_md *ctx, const struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;
	__u32 verdict = judge_own(ctx, arrival);

	if (packet->fragment == FIRST && packet->fragmentable != PROTOCOL_ESP &&
	    packet->fragmentable != PROTOCOL_AH)
		remember(packet, verdict);
	switch (verdict) {
	case TAKE_ESP:
	case TAKE_AH:
	case TAKE_ESP_IN_UDP:
	case TAKE_UNPROTECTED:
		return take(ctx, arrival, verdict);
	case TAKE_ICMP_ERROR:
		return redirect(ctx, arrival, verdict, XDP_PASS);
	default:
		return pass(verdict);
	}
}

/* From inside, ours when a protect selector covers it. RFC 4301 3.1: "Traffic traversing the boundary is subject to
 * the access controls": what stays inside traverses none, unless a protected prefix is as long as the network. */
static __always_inline int steer_outbound(struct xdp_md *ctx, const struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;
	__u32 remote = covers(&protected_remote, &packet->destination);

	if (!remote || !covers(&protected_local, &packet->source))
		return pass(PASS_NOT_OURS);
	if (covers(&inside, &packet->destination) > remote)
		return pass(PASS_INSIDE);
	return take(ctx, arrival, TAKE_PROTECT);
}

/* From outside and for somebody behind us: what a protect selector covers should have come in ESP. */
static __always_inline int steer_inbound(struct xdp_md *ctx, const struct arrival *arrival)
{
	const struct packet *packet = &arrival->packet;

	if (covers(&protected_remote, &packet->source) &&
	    covers(&protected_local, &packet->destination))
		return take(ctx, arrival, TAKE_UNPROTECTED);
	return pass(PASS_NOT_OURS);
}

/* The port that a frame with these tags came in by; 0 if it is none of ours. */
static __always_inline int find_port(struct xdp_md *ctx, const struct tags *tags,
				     struct arrival *arrival)
{
	/* Few ports, and lookups in an array are inlined: cheaper than a hash. */
#pragma unroll
	for (__u32 number = 0; number < MAX_PORTS; number++) {
		__u32 key = number;
		struct port *port = bpf_map_lookup_elem(&ports, &key);

		if (port && port->interface == ctx->ingress_ifindex &&
		    port->outer_vlan == tags->outer && port->inner_vlan == tags->inner) {
			arrival->port = number;
			arrival->role = port->role;
			arrival->surplus = tags->count - (port->outer_vlan && tags->count ? 1 : 0);
			return 1;
		}
	}
	return 0;
}

SEC("xdp.frags")
int esplanade_steer(struct xdp_md *ctx)
{
	struct arrival arrival = {};
	struct packet *packet = &arrival.packet;
	struct tags tags = {};
	__be16 type;
	__u32 at;

	at = read_link(ctx, &tags, &type);
	if (!at || !find_port(ctx, &tags, &arrival))
		return pass(PASS_NOT_OURS);
	if (type == bpf_htons(ETHERTYPE_IPV4)) {
		if (!read_ipv4(ctx, at, packet))
			return pass(PASS_MALFORMED);
	} else if (type == bpf_htons(ETHERTYPE_IPV6)) {
		if (!read_ipv6(ctx, at, packet))
			return pass(PASS_MALFORMED);
	} else {
		return pass(PASS_NOT_OURS);
	}

	if (is_neighbor_discovery(ctx, packet))
		return pass(PASS_NEIGHBOR);
	if (packet->source.family == 6 && stays_on_link(packet))
		return pass(PASS_NOT_OURS);
	if (bpf_map_lookup_elem(&local_addresses, &packet->destination))
		return steer_own(ctx, &arrival);
	if (stays_on_link(packet))
		return pass(PASS_NOT_OURS);
	if (arrival.role == ROLE_INSIDE)
		return steer_outbound(ctx, &arrival);
	return steer_inbound(ctx, &arrival);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
