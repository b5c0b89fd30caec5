package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
)

func TestHome(t *testing.T) {
	m := newMemory()
	root := m.tree(t, siteFiles, false).Cid()
	sites := []Site{
		{Target: "/ipfs/" + root.String(), Root: root, State: "whole", Bytes: 3_200_000},
		{Target: "<script>docs</script>", Root: root, State: "fetching", Missing: 12345},
		{Target: "later", Root: cid.Undef, State: "waiting"},
	}
	s := serve(t, m, Config{Sites: func() []Site { return sites }}, root)

	for _, tt := range []struct{ host, agent, link string }{
		{"localhost:" + s.port, "Firefox/130.0", "http://" + s.host + "/"},
		{s.addr, "Firefox/130.0", "http://" + s.host + "/"},
		{s.addr, "Version/18.1 Safari/605.1.15", "/ipfs/" + root.String() + "/"},
		{"192.168.1.7:8080", "Firefox/130.0", "/ipfs/" + root.String() + "/"},
	} {
		a := s.do(t, "GET", tt.host, "/", "User-Agent: "+tt.agent, "Origin: http://evil.example")
		a.wantStatus(t, 200)
		a.wantHeader(t, "Access-Control-Allow-Origin", "")
		a.wantHeader(t, "X-Content-Type-Options", "nosniff")
		a.wantHeader(t, "Content-Security-Policy", pagePolicy)
		for _, want := range []string{`href="` + tt.link + `"`, "3.2 MB", "whole", "12,345 blocks missing", "waiting", "&lt;script&gt;docs", "pollux add", "pollux follow"} {
			if !bytes.Contains(a.body, []byte(want)) {
				t.Errorf("%s lacks %q:\n%s", tt.host, want, a.body)
			}
		}
		if strings.Contains(string(a.body), "<script") {
			t.Errorf("script in %s", a.body)
		}
		// The policy lets exactly this style sheet apply.
		style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindSubmatch(a.body)
		sum := sha256.Sum256(style[1])
		if !strings.Contains(pagePolicy, base64.StdEncoding.EncodeToString(sum[:])) {
			t.Errorf("the policy refuses the style sheet of %s", tt.host)
		}
	}
	s.do(t, "HEAD", s.addr, "/").want(t, 200, "")

	empty := serve(t, m, Config{}, root)
	if a := empty.do(t, "GET", s.addr, "/"); !bytes.Contains(a.body, []byte("None yet")) {
		t.Errorf("empty home page: %s", a.body)
	}
}
