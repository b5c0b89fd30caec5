package exchange

import "testing"

// TestSharedPath lets the sessions of two fetches with one provider owe equally much.
func TestSharedPath(t *testing.T) {
	f, s := idleFetch(t, 10, 2)
	g, r := idleFetch(t, 10, 1)
	g.client = f.client
	r[0].peer = s[0].peer
	for _, one := range []*session{s[0], s[1], r[0]} {
		defer f.client.paths.enter(one)()
	}
	r[0].window.size = 2 << 20
	if got := s[0].pathWindow(); got != s[0].window.size {
		t.Errorf("%d bytes may be owed beside a fetch that is owed nothing", got)
	}
	r[0].want(nil)
	r[0].pathWindow()
	if got := s[0].pathWindow(); got != r[0].window.size {
		t.Errorf("%d bytes may be owed, %d to another fetch by the same provider", got, r[0].window.size)
	}
	if got := s[1].pathWindow(); got != s[1].window.size {
		t.Errorf("%d bytes may be owed by a provider that no other fetch uses", got)
	}
	r[0].owedSize = 0
	r[0].pathWindow()
	if got := s[0].pathWindow(); got != s[0].window.size {
		t.Errorf("%d bytes may be owed when the other fetch is owed nothing any more", got)
	}
}
