package exchange

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// model is a leafSet that is easy to be sure of.
type model map[int]bool

func (m model) check(t testing.TB, s *leafSet, limit int) {
	t.Helper()
	if s.n != len(m) {
		t.Fatalf("%d leaves, want %d", s.n, len(m))
	}
	for i := range limit {
		if s.has(i) != m[i] {
			t.Fatalf("has %d: %v", i, s.has(i))
		}
	}
	var each []span
	s.each(func(p span) bool { each = append(each, p); return true })
	if want := m.spans(span{0, limit}, true); !slices.Equal(each, want) {
		t.Fatalf("each: %v, want %v", each, want)
	}
}

func (m model) spans(t span, in bool) (spans []span) {
	for i := t.first; i < t.end(); i++ {
		if m[i] != in {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].end() == i {
			spans[n-1].n++
		} else {
			spans = append(spans, span{i, 1})
		}
	}
	return spans
}

// FuzzLeafSet does what the bytes say with a leafSet and a model, three at a time: what,
// where, and how many.
func FuzzLeafSet(f *testing.F) {
	f.Add([]byte{0, 0, 64, 1, 63, 2, 2, 5, 0, 3, 64, 0, 4, 0, 255, 5, 0, 255})
	f.Add([]byte{0, 63, 1, 0, 64, 1, 0, 65, 1, 1, 64, 1, 6, 0, 200, 4, 10, 100})
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		b := make([]byte, 300)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 600
		m, s := make(model), new(leafSet)
		for ; len(b) >= 3; b = b[3:] {
			p := span{int(b[1]), int(b[2])}
			switch b[0] % 7 {
			case 0:
				s.addSpan(p)
				for i := p.first; i < p.end(); i++ {
					m[i] = true
				}
			case 1:
				s.removeSpan(p)
				for i := p.first; i < p.end(); i++ {
					delete(m, i)
				}
			case 2:
				if s.add(p.first) == m[p.first] {
					t.Fatalf("add %d", p.first)
				}
				m[p.first] = true
			case 3:
				if s.remove(p.first) != m[p.first] {
					t.Fatalf("remove %d", p.first)
				}
				delete(m, p.first)
			case 4:
				if got, want := s.hasAll(p), len(m.spans(p, false)) == 0; got != want {
					t.Fatalf("has all of %v: %v", p, got)
				}
			case 5, 6:
				in := b[0]%7 == 5
				if got, want := s.spans(nil, p, in), m.spans(p, in); !slices.Equal(got, want) {
					t.Fatalf("spans of %v: %v, want %v", p, got, want)
				}
			}
		}
		m.check(t, s, limit)
		c := s.clone()
		s.addSpan(span{0, limit})
		m.check(t, &c, limit)
	})
}

func TestSpanCut(t *testing.T) {
	for _, tt := range []struct{ s, t, want span }{
		{span{2, 5}, span{0, 100}, span{2, 5}},
		{span{2, 5}, span{3, 2}, span{3, 2}},
		{span{2, 5}, span{0, 4}, span{2, 2}},
		{span{2, 5}, span{5, 10}, span{5, 2}},
		{span{2, 5}, span{7, 1}, span{7, 0}},
		{span{2, 5}, span{0, 2}, span{2, 0}},
		{span{2, 5}, span{}, span{2, 0}},
	} {
		if got := tt.s.cut(tt.t); got != tt.want {
			t.Errorf("%v in %v is %v, want %v", tt.s, tt.t, got, tt.want)
		}
	}
}

// TestWithout cancels at random, and compares with a model.
func TestWithout(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 1000 {
		var wants, gone []span
		for range r.IntN(5) {
			wants = append(wants, span{r.IntN(50), 1 + r.IntN(20)})
		}
		for at := 0; at < 60; {
			at += r.IntN(15)
			s := span{at, 1 + r.IntN(10)}
			gone = append(gone, s)
			at = s.end()
		}
		left, err := without(slices.Clone(wants), gone)
		if err != nil {
			t.Fatal(err)
		}
		var want, got []int
		for _, s := range wants {
			for i := s.first; i < s.end(); i++ {
				if !slices.ContainsFunc(gone, func(g span) bool { return (span{i, 1}).cut(g).n > 0 }) {
					want = append(want, i)
				}
			}
		}
		for _, s := range left {
			for i := s.first; i < s.end(); i++ {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v without %v is %v", wants, gone, left)
		}
	}
	all := slices.Repeat([]span{{0, maxLeaves}}, maxQueued)
	if n := testing.AllocsPerRun(10, func() { without(all, []span{{maxLeaves, 1}}) }); n > 0 {
		t.Errorf("%v allocations to call off what was not asked for", n)
	}
	if left, err := without(all, every(maxSpans, 2)); err == nil || len(left) > 0 {
		t.Errorf("%d spans are left, %v", len(left), err)
	}
}
