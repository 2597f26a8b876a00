/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * From a frame to what the program decides by: tags, addresses, what the IP headers are followed by, and whether it is a
 * fragment. What lies behind the fixed headers is read by bpf_xdp_load_bytes, so that its place may be any.
 */
#pragma once

#include "maps.bpf.h"
#include <bpf/bpf_endian.h>

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define MAX_VLAN_TAGS 2
#define VLAN_TAG 4
#define VLAN_MASK 0x0fff /* of the control field: the identifier, without priority and drop eligibility */
#define MAC_ADDRESSES 12

#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_ICMP 1
#define PROTOCOL_UDP 17
#define PROTOCOL_ROUTING 43
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_ESP 50
#define PROTOCOL_AH 51
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_DESTINATION 60
#define PROTOCOL_MOBILITY 135
#define PROTOCOL_HIP 139
#define PROTOCOL_SHIM6 140
/* Of a packet whose extension headers do not fit it, or are more than we walk: IANA's "reserved". */
#define PROTOCOL_UNKNOWN 255
#define MAX_EXTENSIONS 8

#define IPV4_FRAGMENT_MASK 0x3fff /* more fragments, or an offset */
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE_FRAGMENTS 1

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
	__u8 source[4];
	__u8 destination[4];
};

struct ipv6 {
	__u8 version;
	__u8 class_and_flow[3];
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	__u8 source[16];
	__u8 destination[16];
};

/* RFC 8200 4.3, 4.4 and 4.6; the length counts 8 octets, the first not included. */
struct extension {
	__u8 next_header;
	__u8 length;
};

/* RFC 8200 4.5. */
struct fragment_header {
	__u8 next_header;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

enum fragment { WHOLE = 0, FIRST = 1, LATER = 2 };

struct packet {
	struct address source;
	struct address destination;
	__u32 transport;      /* where what follows the IP headers begins, from the frame's start */
	__u32 id;             /* of a fragment's packet */
	__u8 protocol;        /* what follows the IP headers; of a later fragment, what follows its fragment header */
	__u8 fragmentable;    /* of a fragment: what follows the IP header, or its fragment header */
	__u8 hop_limit;
	__u8 fragment;
};

/* The tags of a frame: how many, and their identifiers; one of 0 is for the priority only (IEEE 802.1Q 9.6). */
struct tags {
	__u32 count;
	__u16 outer;
	__u16 inner;
};

/* Reads what is in front of the IP header and gives where that begins; 0 if the frame ends before. */
static __always_inline __u32 read_link(struct xdp_md *ctx, struct tags *tags, __be16 *type)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	struct vlan *tag = (void *)(ethernet + 1);

	if ((void *)(ethernet + 1) > end)
		return 0;
	*type = ethernet->type;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		__u16 identifier;

		if (*type != bpf_htons(ETHERTYPE_VLAN) && *type != bpf_htons(ETHERTYPE_QINQ))
			break;
		if ((void *)(tag + 1) > end)
			return 0;
		identifier = bpf_ntohs(tag->control) & VLAN_MASK;
		if (tags->outer)
			tags->inner = identifier;
		else
			tags->outer = identifier;
		tags->count++;
		*type = tag->type;
		tag++;
	}
	return (void *)tag - data;
}

/* Reads an IPv4 header; 0 if it is none. */
static __always_inline int read_ipv4(struct xdp_md *ctx, __u32 at, struct packet *packet)
{
	struct ipv4 ip;
	__u32 header;
	__u16 fragment;

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) < 0)
		return 0;
	header = (ip.version_ihl & 0x0f) * 4;
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
		return 0;
	packet->source.family = 4;
	packet->destination.family = 4;
	__builtin_memcpy(packet->source.octets, ip.source, 4);
	__builtin_memcpy(packet->destination.octets, ip.destination, 4);
	packet->transport = at + header;
	packet->protocol = ip.protocol;
	packet->fragmentable = ip.protocol;
	packet->id = ip.id;
	packet->hop_limit = ip.ttl;
	fragment = bpf_ntohs(ip.fragment);
	if (fragment & IPV4_OFFSET_MASK)
		packet->fragment = LATER;
	else if (fragment & IPV4_FRAGMENT_MASK)
		packet->fragment = FIRST;
	return 1;
}

/* Takes note of a fragment header. RFC 6946: one that makes no fragment is as good as none. Gives whether the walk ends
 * here: what follows in a later fragment is no header. */
static __always_inline int read_fragment_header(struct xdp_md *ctx, struct packet *packet)
{
	struct fragment_header header;
	__u16 offset;

	if (bpf_xdp_load_bytes(ctx, packet->transport, &header, sizeof(header)) < 0) {
		packet->protocol = PROTOCOL_UNKNOWN;
		return 1;
	}
	packet->transport += sizeof(header);
	packet->protocol = header.next_header;
	packet->fragmentable = header.next_header;
	packet->id = header.id;
	offset = bpf_ntohs(header.offset);
	if (offset & IPV6_OFFSET_MASK)
		packet->fragment = LATER;
	else if (offset & IPV6_MORE_FRAGMENTS)
		packet->fragment = FIRST;
	return packet->fragment == LATER;
}

static __always_inline int is_extension(__u8 protocol)
{
	return protocol == PROTOCOL_HOP_BY_HOP || protocol == PROTOCOL_ROUTING ||
	       protocol == PROTOCOL_DESTINATION || protocol == PROTOCOL_MOBILITY ||
	       protocol == PROTOCOL_HIP || protocol == PROTOCOL_SHIM6;
}

/* Walks to what follows the extension headers, a bounded way. AH is what we look for, no header on the way. */
static __always_inline void walk_extensions(struct xdp_md *ctx, struct packet *packet)
{
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		struct extension extension;

		if (packet->protocol == PROTOCOL_FRAGMENT) {
			if (read_fragment_header(ctx, packet))
				return;
			continue;
		}
		if (!is_extension(packet->protocol))
			return;
		if (bpf_xdp_load_bytes(ctx, packet->transport, &extension, sizeof(extension)) < 0)
			break;
		packet->protocol = extension.next_header;
		packet->transport += (extension.length + 1) * 8;
	}
	if (is_extension(packet->protocol) || packet->protocol == PROTOCOL_FRAGMENT)
		packet->protocol = PROTOCOL_UNKNOWN;
}

/* Reads an IPv6 header and what extends it; 0 if it is none. */
static __always_inline int read_ipv6(struct xdp_md *ctx, __u32 at, struct packet *packet)
{
	struct ipv6 ip;

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) < 0)
		return 0;
	if (ip.version >> 4 != 6)
		return 0;
	packet->source.family = 6;
	packet->destination.family = 6;
	__builtin_memcpy(packet->source.octets, ip.source, 16);
	__builtin_memcpy(packet->destination.octets, ip.destination, 16);
	packet->transport = at + sizeof(ip);
	packet->protocol = ip.next_header;
	packet->fragmentable = ip.next_header;
	packet->hop_limit = ip.hop_limit;
	walk_extensions(ctx, packet);
	return 1;
}
