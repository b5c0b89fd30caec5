package exchange

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"pollux/blockstore"
)

// A frame is a uvarint length, a type byte and a body of length-1 bytes. What they mean,
// and in which order they come, is in docs/protocol.md.
type frameType byte

const (
	frameHello frameType = 1 // both: nothing; at most maxHello bytes are ignored

	// From the fetcher.
	frameOpen   frameType = 2 // root, base, eager bytes
	frameList   frameType = 3 // from, count, flags
	frameWant   frameType = 4 // spans of leaves
	frameCancel frameType = 5 // spans of leaves
	frameGet    frameType = 6 // CIDs
	frameGot    frameType = 7 // DATA that came so far

	// From the provider.
	frameOpened frameType = 16 // status, others
	frameIndex  frameType = 17 // from, flags, pieces
	frameHave   frameType = 18 // flags, spans of leaves
	frameData   frameType = 19 // first leaf, pieces
	frameMiss   frameType = 20 // spans of leaves
	frameBlocks frameType = 21 // pieces
	framePeers  frameType = 22 // others, peer IDs and addresses
	frameBusy   frameType = 23 // milliseconds
	frameLater  frameType = 24 // spans of leaves
)

const (
	maxCID     = 256       // bytes of a CID
	maxHello   = 1 << 10   // bytes of a HELLO
	maxLeaves  = 1 << 24   // of a DAG
	maxNodes   = 1 << 24   // of a DAG
	maxSpans   = 1 << 10   // of a frame
	maxGets    = 64        // CIDs of a GET
	maxPieces  = 1 << 12   // of a frame
	maxEager   = 1 << 20   // bytes that a fetcher lets a provider choose
	maxPeers   = 16        // of a PEERS
	maxAddrs   = 8         // of a peer
	maxAddr    = 256       // bytes of an address, and of a peer ID
	maxPause   = time.Hour // that BUSY asks for
	maxRequest = 64 << 10  // body of a frame to the provider

	// maxRaw is what the pieces of a frame have at most before compression, their
	// lengths included.
	maxRaw = blockstore.MaxBlockSize + 64<<10
	// maxAnswer bounds the body of a frame to the fetcher.
	maxAnswer = maxRaw + 1<<10
)

var errProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// appendFrame appends a frame to dst. The body is given in parts, to spare a
// copy of the payload.
func appendFrame(dst []byte, t frameType, parts ...[]byte) []byte {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = append(dst, byte(t))
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// isNews says whether frames begin with what a provider sends without being asked.
func isNews(frames []byte) bool {
	_, n := binary.Uvarint(frames)
	t := frameType(frames[n])
	return t == frameHave || t == framePeers
}

// readFrame reads one frame whose body has at most limit bytes, into a buffer of its
// own. It returns io.EOF only between frames.
func readFrame(r *bufio.Reader, limit int) (frameType, []byte, error) {
	return readFrameInto(r, limit, func(n int) []byte { return make([]byte, n) })
}

// readFrameInto is readFrame into what buffer returns for a number of bytes.
func readFrameInto(r *bufio.Reader, limit int, buffer func(n int) []byte) (frameType, []byte, error) {
	length := byteReader{Reader: r}
	n, err := binary.ReadUvarint(&length)
	switch {
	case length.err != nil:
		return 0, nil, err
	case err != nil:
		return 0, nil, violation("frame length: %v", err) // of more than 64 bits
	}
	if n < 1 || n > uint64(limit)+1 {
		return 0, nil, violation("frame of %d bytes", n)
	}
	t, err := r.ReadByte()
	if err != nil {
		return 0, nil, unexpected(err)
	}
	body := buffer(int(n) - 1)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	return frameType(t), body, nil
}

// byteReader remembers the last error of its reader.
type byteReader struct {
	*bufio.Reader
	err error
}

func (r *byteReader) ReadByte() (b byte, err error) {
	b, r.err = r.Reader.ReadByte()
	return b, r.err
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields reads the varints and runs of bytes of a frame body. The first error sticks,
// and all that is read after it is zero.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = violation(format, args...)
		f.b = nil
	}
}

// uvarint reads a number of at most limit.
func (f *fields) uvarint(limit int) int {
	if f.err != nil {
		return 0
	}
	v, n := binary.Uvarint(f.b)
	switch {
	case n <= 0:
		f.fail("bad number")
		return 0
	case v > uint64(limit):
		f.fail("%d is over the limit of %d", v, limit)
		return 0
	}
	f.b = f.b[n:]
	return int(v)
}

func (f *fields) bytes(n int) []byte {
	if n > len(f.b) {
		f.fail("frame is cut short")
		return nil
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) byte() byte {
	if b := f.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// cid reads a length and a CID, which is undefined if the length is 0.
func (f *fields) cid() cid.Cid {
	b := f.bytes(f.uvarint(maxCID))
	if len(b) == 0 {
		return cid.Undef
	}
	c, err := cid.Cast(b)
	if err != nil {
		f.fail("bad CID: %v", err)
		return cid.Undef
	}
	return c
}

// end returns the error, or that something is left over.
func (f *fields) end() error {
	if len(f.b) > 0 {
		f.fail("%d bytes too many", len(f.b))
	}
	return f.err
}

func appendCID(dst []byte, c cid.Cid) []byte {
	dst = binary.AppendUvarint(dst, uint64(c.ByteLen()))
	return append(dst, c.Bytes()...)
}

// open asks for a DAG. It may be sent again with another base.
type open struct {
	root, base cid.Cid
	eager      int // bytes of leaves that may be sent unasked
}

func appendOpen(dst []byte, o open) []byte {
	body := appendCID(appendCID(nil, o.root), o.base)
	return appendFrame(dst, frameOpen, binary.AppendUvarint(body, uint64(o.eager)))
}

func parseOpen(body []byte) (open, error) {
	f := fields{b: body}
	o := open{f.cid(), f.cid(), f.uvarint(maxEager)}
	if f.err == nil && !o.root.Defined() {
		f.fail("no root")
	}
	return o, f.end()
}

// list asks for nodes: count of them, or all if that is 0, from the given number on.
type list struct {
	from, count int
	full        bool // with those that the base has in the same place
}

const (
	flagFull = 1 // of LIST and INDEX
	flagLast = 2 // of INDEX
	flagAll  = 1 // of HAVE
)

func appendList(dst []byte, l list) []byte {
	body := binary.AppendUvarint(nil, uint64(l.from))
	body = binary.AppendUvarint(body, uint64(l.count))
	return appendFrame(dst, frameList, append(body, flag(l.full, flagFull)))
}

func parseList(body []byte) (list, error) {
	f := fields{b: body}
	l := list{from: f.uvarint(maxNodes), count: f.uvarint(maxNodes)}
	l.full = f.flags(flagFull)&flagFull != 0
	return l, f.end()
}

func flag(on bool, f byte) byte {
	if on {
		return f
	}
	return 0
}

func (f *fields) flags(known byte) byte {
	b := f.byte()
	if b&^known != 0 {
		f.fail("unknown flags %#x", b)
	}
	return b
}

// Statuses of OPENED.
const (
	statusAbsent = 0 // the root, or a node below it, is not held
	statusOpen   = 1
	statusBased  = 2 // and the base is held too
)

type opened struct {
	status byte
	others int // that fetch the same DAG from the provider
}

func appendOpened(dst []byte, o opened) []byte {
	return appendFrame(dst, frameOpened, binary.AppendUvarint([]byte{o.status}, uint64(o.others)))
}

func parseOpened(body []byte) (opened, error) {
	f := fields{b: body}
	o := opened{f.byte(), f.uvarint(math.MaxInt32)}
	if o.status > statusBased {
		f.fail("unknown status %d", o.status)
	}
	return o, f.end()
}

func appendSpanFrame(dst []byte, t frameType, spans []span) []byte {
	return appendFrame(dst, t, appendSpans(nil, spans))
}

func parseSpanFrame(body []byte) ([]span, error) {
	f := fields{b: body}
	spans := f.spans()
	if len(spans) == 0 {
		f.fail("no leaves")
	}
	return spans, f.end()
}

func appendHave(dst []byte, all bool, spans []span) []byte {
	return appendFrame(dst, frameHave, appendSpans([]byte{flag(all, flagAll)}, spans))
}

func parseHave(body []byte) (all bool, spans []span, err error) {
	f := fields{b: body}
	all = f.flags(flagAll)&flagAll != 0
	spans = f.spans()
	return all, spans, f.end()
}

func appendSpans(dst []byte, spans []span) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(spans)))
	at := 0
	for _, s := range spans {
		dst = binary.AppendUvarint(dst, uint64(s.first-at))
		dst = binary.AppendUvarint(dst, uint64(s.n))
		at = s.end()
	}
	return dst
}

func (f *fields) spans() []span {
	count := f.uvarint(maxSpans)
	spans := make([]span, 0, min(count, len(f.b)/2))
	at := 0
	for range count {
		s := span{first: at + f.uvarint(maxLeaves), n: f.uvarint(maxLeaves)}
		if f.err == nil && (s.n == 0 || s.end() > maxLeaves) {
			f.fail("bad span of leaves")
		}
		if f.err != nil {
			return nil
		}
		spans = append(spans, s)
		at = s.end()
	}
	return spans
}

func appendGet(dst []byte, cids []cid.Cid) []byte {
	body := binary.AppendUvarint(nil, uint64(len(cids)))
	for _, c := range cids {
		body = appendCID(body, c)
	}
	return appendFrame(dst, frameGet, body)
}

func parseGet(body []byte) ([]cid.Cid, error) {
	f := fields{b: body}
	count := f.uvarint(maxGets)
	var cids []cid.Cid
	for range count {
		c := f.cid()
		if f.err == nil && !c.Defined() {
			f.fail("no CID")
		}
		cids = append(cids, c)
	}
	return cids, f.end()
}

// appendPeers names some of the others that exchange the same DAG.
func appendPeers(dst []byte, others int, peers []peer.AddrInfo) []byte {
	body := binary.AppendUvarint(nil, uint64(others))
	body = binary.AppendUvarint(body, uint64(len(peers)))
	for _, p := range peers {
		body = binary.AppendUvarint(body, uint64(len(p.ID)))
		body = append(body, p.ID...)
		body = binary.AppendUvarint(body, uint64(len(p.Addrs)))
		for _, a := range p.Addrs {
			body = binary.AppendUvarint(body, uint64(len(a.Bytes())))
			body = append(body, a.Bytes()...)
		}
	}
	return appendFrame(dst, framePeers, body)
}

func parsePeers(body []byte) (others int, peers []peer.AddrInfo, err error) {
	f := fields{b: body}
	others = f.uvarint(math.MaxInt32)
	count := f.uvarint(maxPeers)
	for range count {
		id, err := peer.IDFromBytes(f.bytes(f.uvarint(maxAddr)))
		if f.err == nil && err != nil {
			f.fail("bad peer ID: %v", err)
		}
		info := peer.AddrInfo{ID: id}
		for range f.uvarint(maxAddrs) {
			a, err := ma.NewMultiaddrBytes(f.bytes(f.uvarint(maxAddr)))
			if f.err == nil && err != nil {
				f.fail("bad address: %v", err)
			}
			info.Addrs = append(info.Addrs, a)
		}
		peers = append(peers, info)
	}
	return others, peers, f.end()
}

func appendGot(dst []byte, count int) []byte {
	return appendFrame(dst, frameGot, binary.AppendUvarint(nil, uint64(count)))
}

func parseGot(body []byte) (count int, err error) {
	f := fields{b: body}
	count = f.uvarint(math.MaxInt)
	return count, f.end()
}

func appendBusy(dst []byte, pause time.Duration) []byte {
	return appendFrame(dst, frameBusy, binary.AppendUvarint(nil, uint64(pause/time.Millisecond)))
}

func parseBusy(body []byte) (time.Duration, error) {
	f := fields{b: body}
	ms := f.uvarint(int(maxPause / time.Millisecond))
	return time.Duration(ms) * time.Millisecond, f.end()
}

// answer is a parsed INDEX, DATA or BLOCKS: the head is checked, the pieces are still
// encoded.
type answer struct {
	first int // number of the first node or leaf
	full  bool
	last  bool
	body  body
}

func appendIndex(dst []byte, first int, full, last bool, b body) []byte {
	head := binary.AppendUvarint(nil, uint64(first))
	head = append(head, flag(full, flagFull)|flag(last, flagLast))
	return appendFrame(dst, frameIndex, head, b.head(), b.payload)
}

func parseIndex(b []byte) (answer, error) {
	f := fields{b: b}
	a := answer{first: f.uvarint(maxNodes)}
	flags := f.flags(flagFull | flagLast)
	a.full, a.last = flags&flagFull != 0, flags&flagLast != 0
	a.body = f.body()
	if f.err == nil && a.body.count == 0 && !a.last {
		f.fail("empty INDEX")
	}
	return a, f.err
}

func appendData(dst []byte, first int, b body) []byte {
	head := append(binary.AppendUvarint(nil, uint64(first)), b.head()...)
	if b.front == nil || len(dst) > 0 {
		return appendFrame(dst, frameData, head, b.payload)
	}
	whole := binary.AppendUvarint(nil, uint64(1+len(head)+len(b.payload)))
	whole = append(append(whole, byte(frameData)), head...)
	frame := b.front[headRoom-len(whole):]
	copy(frame, whole)
	return frame
}

func parseData(b []byte) (answer, error) {
	f := fields{b: b}
	a := answer{first: f.uvarint(maxLeaves)}
	a.body = f.body()
	if f.err == nil && (a.body.count == 0 || a.first+a.body.count > maxLeaves) {
		f.fail("bad DATA")
	}
	return a, f.err
}

func (a answer) span() span { return span{a.first, a.body.count} }

func appendBlocks(dst []byte, b body) []byte {
	return appendFrame(dst, frameBlocks, b.head(), b.payload)
}

func parseBlocks(b []byte) (answer, error) {
	f := fields{b: b}
	a := answer{body: f.body()}
	if f.err == nil && a.body.count == 0 {
		f.fail("empty BLOCKS")
	}
	return a, f.err
}
