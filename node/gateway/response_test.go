package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/hamt"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"pollux/node/api"
)

func TestRanges(t *testing.T) {
	s := newSite(t)
	etag := s.get(t, "/digits.txt").Header.Get("Etag")
	for _, tt := range []struct {
		name, target string
		header       []string
		status       int
		body         string
		contentRange string
	}{
		{"head", "/digits.txt", []string{"Range: bytes=0-3"}, 206, "0123", "bytes 0-3/10"},
		{"middle", "/digits.txt", []string{"Range: bytes=2-4"}, 206, "234", "bytes 2-4/10"},
		{"open", "/digits.txt", []string{"Range: bytes=7-"}, 206, "789", "bytes 7-9/10"},
		{"past the end", "/digits.txt", []string{"Range: bytes=7-99"}, 206, "789", "bytes 7-9/10"},
		{"suffix", "/digits.txt", []string{"Range: bytes=-2"}, 206, "89", "bytes 8-9/10"},
		{"suffix longer than the file", "/digits.txt", []string{"Range: bytes=-99"}, 200, "0123456789", ""},
		{"several", "/digits.txt", []string{"Range: bytes=0-1,4-5"}, 200, "0123456789", ""},
		{"several overlapping", "/digits.txt", []string{"Range: bytes=5-9,0-999,0-999"}, 200, "0123456789", ""},
		{"two headers", "/digits.txt", []string{"Range: bytes=0-1", "Range: bytes=4-5"}, 200, "0123456789", ""},
		{"other unit", "/digits.txt", []string{"Range: items=0-1"}, 200, "0123456789", ""},
		{"malformed", "/digits.txt", []string{"Range: bytes=a-b"}, 200, "0123456789", ""},
		{"backward", "/digits.txt", []string{"Range: bytes=5-2"}, 400, "invalid range request: invalid range\n", ""},
		{"same entity", "/digits.txt", []string{"Range: bytes=2-4", "If-Range: " + etag}, 206, "234", "bytes 2-4/10"},
		{"other entity", "/digits.txt", []string{"Range: bytes=2-4", `If-Range: "other"`}, 200, "0123456789", ""},
		{"by date", "/digits.txt", []string{"Range: bytes=2-4", "If-Range: Mon, 02 Jan 2006 15:04:05 GMT"}, 200, "0123456789", ""},
		{"index", "/", []string{"Range: bytes=0-4"}, 206, "<!DOC", "bytes 0-4/35"},
		{"big", "/big.bin", []string{fmt.Sprintf("Range: bytes=%d-%d", 3*chunkSize-5, 3*chunkSize+4)}, 206,
			string(big[3*chunkSize-5 : 3*chunkSize+5]), fmt.Sprintf("bytes %d-%d/%d", 3*chunkSize-5, 3*chunkSize+4, len(big))},
		{"big, other entity", "/big.bin", []string{"Range: bytes=70000-", `If-Range: "other"`}, 200, string(big), ""},
		{"big, suffix longer than the file", "/big.bin", []string{"Range: bytes=-9999999"}, 200, string(big), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.get(t, tt.target, tt.header...)
			a.want(t, tt.status, tt.body)
			a.wantHeader(t, "Content-Range", tt.contentRange)
		})
	}

	a := s.get(t, "/digits.txt", "Range: bytes=10-")
	a.wantStatus(t, 416)
	a.wantHeader(t, "Content-Range", "bytes */10")
	s.get(t, "/empty.txt", "Range: bytes=0-").want(t, 200, "")
	h := s.do(t, "HEAD", s.host, "/digits.txt", "Range: bytes=2-4")
	h.want(t, 206, "")
	h.wantHeader(t, "Content-Length", "3")
	// A listing has no ranges.
	if a := s.get(t, "/plain/", "Range: bytes=0-4"); a.StatusCode != 200 || !bytes.Contains(a.body, []byte("readme.txt")) {
		t.Errorf("listing: %d %s", a.StatusCode, a.body)
	}
}

// leaves returns the leaves of a file of raw blocks in order.
func (m *memory) leaves(t *testing.T, c cid.Cid) []cid.Cid {
	t.Helper()
	if c.Type() == cid.Raw {
		return []cid.Cid{c}
	}
	n, err := merkledag.DecodeProtobuf(m.block(c).Data())
	if err != nil {
		t.Fatal(err)
	}
	var all []cid.Cid
	for _, l := range n.Links() {
		all = append(all, m.leaves(t, l.Cid)...)
	}
	return all
}

// link returns the CID under a name in the site's root.
func (s *site) link(t *testing.T, name string) cid.Cid {
	t.Helper()
	n, err := merkledag.DecodeProtobuf(s.block(s.root).Data())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range n.Links() {
		if l.Name == name {
			return l.Cid
		}
	}
	t.Fatalf("no %s", name)
	return cid.Undef
}

func TestUnavailable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error // nil: the block is not there
		status int
	}{
		{"not held", nil, 404},
		{"unreachable", fmt.Errorf("asked 3 peers: %w", api.ErrUnreachable), 504},
		{"unreadable", errors.New("input/output error"), 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			lose := func(c cid.Cid) {
				s.change(func() {
					delete(s.blocks, c)
					if tt.err != nil {
						s.fail[c] = tt.err
					}
				})
			}
			lose(s.link(t, "page.html"))
			lose(s.link(t, "index.html"))
			lose(s.link(t, "sub"))
			lose(s.link(t, "extensionless"))
			first := s.leaves(t, s.link(t, "big.bin"))[0]
			lose(first)
			for _, target := range []string{"/page.html", "/", "/sub/index.html", "/sub", "/extensionless", "/big.bin"} {
				a := s.get(t, target)
				a.wantStatus(t, tt.status)
				a.wantHeader(t, "Cache-Control", "no-store")
				a.wantHeader(t, "Etag", "")
				a.wantHeader(t, "Content-Type", "text/plain; charset=utf-8")
				if a.bodyErr != nil || !bytes.HasPrefix(a.body, []byte("block baf")) {
					t.Errorf("%s: %q (%v)", target, a.body, a.bodyErr)
				}
				if (a.Header.Get("Retry-After") != "") != (tt.status == 504) {
					t.Errorf("%s: Retry-After %q", target, a.Header.Get("Retry-After"))
				}
				page := s.get(t, target, "Accept: text/html,*/*")
				page.wantStatus(t, tt.status)
				page.wantHeader(t, "Content-Type", "text/html; charset=utf-8")
				page.wantHeader(t, "Content-Security-Policy", pagePolicy)
				advice := "pollux follow " + s.root.String()
				if bytes.Contains(page.body, []byte(advice)) != (tt.status != 500) {
					t.Errorf("%s: advice in %s", target, page.body)
				}
			}
			s.do(t, "HEAD", s.host, "/page.html").want(t, tt.status, "")
			s.change(func() {
				if n := s.asked[first]; n > 4 { // a prefetch and a read for each of two requests
					t.Errorf("asked %d times for a missing block", n)
				}
			})
		})
	}
}

func TestErrorPages(t *testing.T) {
	s := newSite(t)
	a := s.get(t, "/<script>alert(1)</script>", "Accept: text/html")
	a.wantStatus(t, 404)
	if bytes.Contains(a.body, []byte("<script")) || !bytes.Contains(a.body, []byte("No such page")) {
		t.Errorf("page: %s", a.body)
	}
	s.do(t, "GET", "evil.example", "/", "Accept: text/html").wantStatus(t, 421)
	s.do(t, "GET", s.addr, "/ipfs/x", "Accept: text/html").wantStatus(t, 400)
	s.do(t, "GET", s.addr, "/ipns/x", "Accept: text/html").wantStatus(t, 501)
}

// TestSiteErrorPage has a site bring its own page for what it lacks.
func TestSiteErrorPage(t *testing.T) {
	m := newMemory()
	root := m.tree(t, map[string][]byte{
		"_redirects": []byte("/old /new 301\n/app/* /app.html 200\n/* /404.html 404\n"),
		"404.html":   []byte("<p>mine</p>"),
		"app.html":   []byte("<p>app</p>"),
	}, false)
	s := serve(t, m, Config{}, root.Cid())
	s.get(t, "/nothing", "Accept: text/html").want(t, 404, "<p>mine</p>")
	s.get(t, "/app/x/y").want(t, 200, "<p>app</p>")
	s.get(t, "/old").wantHeader(t, "Location", "/new")
}

// TestTruncation loses a block behind the first byte of the body.
func TestTruncation(t *testing.T) {
	s := newSite(t)
	leaves := s.leaves(t, s.link(t, "big.bin"))
	for _, lost := range []cid.Cid{leaves[3], leaves[len(leaves)-1]} {
		b := s.block(lost)
		s.change(func() { delete(s.blocks, lost) })
		a := s.get(t, "/big.bin")
		a.wantStatus(t, 200)
		if a.bodyErr == nil || !bytes.HasPrefix(big, a.body) {
			t.Errorf("%d bytes, error %v; want a prefix and an error", len(a.body), a.bodyErr)
		}
		// An answer that needs no lost block is whole.
		s.get(t, "/big.bin", "Range: bytes=0-9").want(t, 206, string(big[:10]))
		for _, format := range []string{"car", "tar"} { // chunked, so nothing but the cut tells
			a := s.do(t, "GET", s.addr, "/ipfs/"+s.link(t, "big.bin").String()+"?format="+format)
			if a.bodyErr == nil {
				t.Errorf("%s: status %d, %d bytes, no error", format, a.StatusCode, len(a.body))
			}
		}
		s.change(func() { s.blocks[lost] = b })
	}
	s.get(t, "/big.bin").want(t, 200, string(big))
}

// TestRetrievalTimeout has a block never come.
func TestRetrievalTimeout(t *testing.T) {
	m := newMemory()
	root := m.tree(t, siteFiles, false)
	h, err := newGateway(Config{Blocks: view{m}}, limits{50 * time.Millisecond, StallTimeout, MaxRequests})
	if err != nil {
		t.Fatal(err)
	}
	s := serveHandler(t, m, h, root.Cid())
	leaves := s.leaves(t, s.link(t, "big.bin"))
	page := s.link(t, "page.html")
	s.change(func() { s.hang[page], s.hang[leaves[8]] = true, true })

	a := s.get(t, "/page.html")
	a.wantStatus(t, 504)
	if !strings.Contains(string(a.body), errNoProgress.Error()) {
		t.Errorf("message %q", a.body)
	}
	a = s.get(t, "/big.bin")
	a.wantStatus(t, 200)
	if a.bodyErr == nil || !bytes.HasPrefix(big, a.body) {
		t.Errorf("%d bytes, error %v; want a prefix and an error", len(a.body), a.bodyErr)
	}
}

// TestStalledReader stops reading in the middle of a file.
func TestStalledReader(t *testing.T) {
	m := newMemory()
	root := m.tree(t, map[string][]byte{"zero.bin": make([]byte, 32<<20)}, false) // more than sockets buffer
	h, err := newGateway(Config{Blocks: view{m}}, limits{RetrievalTimeout, 50 * time.Millisecond, MaxRequests})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	s := serveHandler(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		h.ServeHTTP(w, r)
	}), root.Cid())
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /zero.bin HTTP/1.1\r\nHost: %s\r\n\r\n", s.host)
	<-done
	if n, err := io.Copy(io.Discard, conn); n >= 32<<20 {
		t.Errorf("all came: %d bytes (%v)", n, err)
	}
}

// TestBusy has one request hold the only place.
func TestBusy(t *testing.T) {
	m := newMemory()
	root := m.tree(t, siteFiles, false)
	h, err := newGateway(Config{Blocks: view{m}}, limits{RetrievalTimeout, StallTimeout, 1})
	if err != nil {
		t.Fatal(err)
	}
	s := serveHandler(t, m, h, root.Cid())
	page := s.link(t, "page.html")
	s.change(func() { s.hang[page] = true })
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /page.html HTTP/1.1\r\nHost: %s\r\n\r\n", s.host)
	<-m.hangs
	a := s.get(t, "/digits.txt")
	a.wantStatus(t, 429)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.do(t, "GET", s.addr, "/").wantStatus(t, 200) // the home page is always there
}

// shard adds a HAMT node with n children, the i-th of them child(i) under name.
func (m *memory) shard(t *testing.T, n int, name string, child func(i int) ipld.Node) ipld.Node {
	t.Helper()
	bits := bytes.Repeat([]byte{0xff}, n/8)
	data, err := unixfs.HAMTShardData(bits, 256, hamt.HashMurmur3)
	if err != nil {
		t.Fatal(err)
	}
	node := merkledag.NodeWithData(data)
	node.SetCidBuilder(merkledag.V1CidPrefix())
	for i := range n {
		if err := node.AddRawLink(fmt.Sprintf("%02X%s", i, name), &ipld.Link{Cid: child(i).Cid()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Add(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	return node
}

// TestHostileDirectories lists a directory that is too wide, and one that is
// 256^3 names in four blocks.
func TestHostileDirectories(t *testing.T) {
	m := newMemory()
	leaf := m.file(t, []byte("x"))
	file := func(int) ipld.Node { return leaf }
	wide := m.shard(t, 256, "", func(i int) ipld.Node {
		return m.shard(t, 8, "", func(j int) ipld.Node { return m.shard(t, 8, fmt.Sprint(i, j), file) })
	})
	s := serve(t, m, Config{}, wide.Cid())
	a := s.get(t, "/")
	a.wantStatus(t, 501)
	if !strings.Contains(string(a.body), "pollux ls") {
		t.Errorf("message %q", a.body)
	}

	twin := func(n ipld.Node) func(int) ipld.Node { return func(int) ipld.Node { return n } }
	bomb := m.shard(t, 256, "", twin(m.shard(t, 256, "", twin(m.shard(t, 256, "name", file)))))
	s = serve(t, m, Config{}, bomb.Cid())
	if a := s.get(t, "/"); len(a.body) > 8<<20 {
		t.Errorf("status %d with %d bytes of listing", a.StatusCode, len(a.body))
	}
	for c, n := range m.asked {
		if n > maxLoads {
			t.Errorf("%s loaded %d times", c, n)
		}
	}
}
