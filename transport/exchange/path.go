package exchange

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
)

// paths are the sessions of a client by provider. Fetches that use one at the same time
// share the path to it, and what each gets of the path follows what it lets the provider
// owe. By itself each window follows its own answers: one with large answers, or one that
// was there first, would keep most of the path. So all of them use the largest.
type paths struct {
	mu  sync.Mutex
	all map[peer.ID]map[*session]int // and the window of each, bytes; 0 while nothing is owed
}

func newPaths() *paths { return &paths{all: make(map[peer.ID]map[*session]int)} }

// enter counts s among those that use the path to its peer, until leave is called.
func (p *paths) enter(s *session) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all[s.peer] == nil {
		p.all[s.peer] = make(map[*session]int)
	}
	p.all[s.peer][s] = 0
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if delete(p.all[s.peer], s); len(p.all[s.peer]) == 0 {
			delete(p.all, s.peer)
		}
	}
}

// window notes the window of s, 0 if it is owed nothing, and returns the largest of all
// that use its path.
func (p *paths) window(s *session, size int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	sessions := p.all[s.peer]
	if _, ok := sessions[s]; !ok {
		return size // it has not begun, or has ended
	}
	sessions[s] = size
	for _, other := range sessions {
		size = max(size, other)
	}
	return size
}

// pathWindow returns the window of s, or a larger one of another fetch that uses the same
// path. The caller holds fetch.mu.
func (s *session) pathWindow() int {
	size := s.window.size
	if s.owedSize == 0 {
		size = 0
	}
	return max(s.fetch.client.paths.window(s, size), s.window.size)
}
