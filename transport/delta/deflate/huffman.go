package deflate

// tree finds the lengths of a Huffman code. Of the many that are as good, it finds the
// one that zlib and gzip do: of two equally frequent nodes the shallower one counts as less
// frequent, and what remains equal is decided by the order in a binary heap.
type tree struct {
	freq   [2 * (literals + 1)]int32 // of symbols, and after them of inner nodes
	depth  [2 * (literals + 1)]uint8
	parent [2 * (literals + 1)]int16
	heap   []int16
	sorted []int16 // nodes as they left the heap: children before parents
	space  [2][2 * (literals + 1)]int16
}

func (t *tree) less(a, b int16) bool {
	if t.freq[a] != t.freq[b] {
		return t.freq[a] < t.freq[b]
	}
	return t.depth[a] <= t.depth[b]
}

// sink moves the node at place i, counted from 0, down to where it belongs.
func (t *tree) sink(i int) {
	n := t.heap[i]
	for {
		child := 2*i + 1
		if child >= len(t.heap) {
			break
		}
		if child+1 < len(t.heap) && t.less(t.heap[child+1], t.heap[child]) {
			child++
		}
		if t.less(n, t.heap[child]) {
			break
		}
		t.heap[i] = t.heap[child]
		i = child
	}
	t.heap[i] = n
}

// pop takes the least frequent node.
func (t *tree) pop() int16 {
	n, last := t.heap[0], len(t.heap)-1
	t.heap[0] = t.heap[last]
	t.heap = t.heap[:last]
	if last > 0 {
		t.sink(0)
	}
	t.sorted = append(t.sorted, n)
	return n
}

// lengths sets those of a code for symbols that occur freq times, at most most bits. There
// are at least two codes, even if fewer symbols occur.
func (t *tree) lengths(lengths []uint8, freq []int32, most int) {
	clear(lengths)
	t.heap, t.sorted = t.space[0][:0], t.space[1][:0]
	largest := -1
	for s, f := range freq {
		t.freq[s], t.depth[s] = f, 0
		if f > 0 {
			t.heap = append(t.heap, int16(s))
			largest = s
		}
	}
	for len(t.heap) < 2 {
		s := 0
		if largest < 2 {
			largest++
			s = largest
		}
		t.freq[s] = 1
		t.heap = append(t.heap, int16(s))
	}
	for i := len(t.heap)/2 - 1; i >= 0; i-- {
		t.sink(i)
	}
	node := int16(len(freq))
	for ; len(t.heap) > 1; node++ {
		a := t.pop()
		b := t.heap[0]
		t.sorted = append(t.sorted, b)
		t.freq[node] = t.freq[a] + t.freq[b]
		t.depth[node] = max(t.depth[a], t.depth[b]) + 1
		t.parent[a], t.parent[b] = node, node
		t.heap[0] = node
		t.sink(0)
	}

	// Depths become lengths, from the root down; too deep nodes, inner ones too, are lifted.
	var depth [2 * (literals + 1)]uint8
	var count [16]int // of leaves, by length
	lifted := 0
	for i := len(t.sorted) - 1; i >= 0; i-- {
		n := t.sorted[i]
		d := int(depth[t.parent[n]]) + 1
		if d > most {
			d = most
			lifted++
		}
		depth[n] = uint8(d)
		if int(n) < len(freq) {
			lengths[n] = uint8(d)
			count[d]++
		}
	}
	if lifted == 0 {
		return
	}
	// For every two of those one leaf is lowered, and gets another one beside it. Then
	// the least frequent leaves get the longest codes.
	for ; lifted > 0; lifted -= 2 {
		l := most - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[most]--
	}
	l := most
	for _, n := range t.sorted {
		if int(n) >= len(freq) {
			continue
		}
		for count[l] == 0 {
			l--
		}
		count[l]--
		lengths[n] = uint8(l)
	}
}

// item is a part of a header: a code length, or 16, 17 or 18 with how often something is
// repeated, less the least number.
type item struct{ symbol, again uint8 }

// items are what a header has for the lengths.
func items(dst []item, lengths []uint8) []item {
	for i := 0; i < len(lengths); {
		v, n := lengths[i], 1
		for i+n < len(lengths) && lengths[i+n] == v {
			n++
		}
		i += n
		if v == 0 {
			for ; n > 10; n -= min(n, 138) {
				dst = append(dst, item{18, uint8(min(n, 138) - 11)})
			}
			if n > 2 {
				dst = append(dst, item{17, uint8(n - 3)})
				n = 0
			}
		} else {
			dst = append(dst, item{v, 0})
			for n--; n > 2; n -= min(n, 6) {
				dst = append(dst, item{16, uint8(min(n, 6) - 3)})
			}
		}
		for range n {
			dst = append(dst, item{v, 0})
		}
	}
	return dst
}

var againBits = [19]int{16: 2, 17: 3, 18: 7}

// coder makes the codes of blocks.
type coder struct {
	tree  tree
	items []item
	// What code decided last:
	form       form
	dynamic    lengths
	header     []byte // of dynamic codes
	headerBits int
}

// code decides which codes a block gets whose symbols occur that often.
func (c *coder) code(literal *[literals]int32, distance *[distances]int32) {
	c.makeDynamic(literal, distance)
	dynamic, static := c.headerBits, 0
	for s, f := range literal {
		extra := 0
		if s > endSymbol {
			extra = int(lengthExtra[s-endSymbol-1])
		}
		dynamic += int(f) * (int(c.dynamic.literal[s]) + extra)
		static += int(f) * (int(fixed.literal[s]) + extra)
	}
	for s, f := range distance {
		extra := int(distanceExtra[s])
		dynamic += int(f) * (int(c.dynamic.distance[s]) + extra)
		static += int(f) * (int(fixed.distance[s]) + extra)
	}
	// Three bits come before both, and whole bytes are compared.
	c.form = dynamicCodes
	if (static+3+7)/8 <= (dynamic+3+7)/8 {
		c.form = fixedCodes
	}
}

func (c *coder) makeDynamic(literal *[literals]int32, distance *[distances]int32) {
	l := &c.dynamic
	c.tree.lengths(l.literal[:literals], literal[:], 15)
	c.tree.lengths(l.distance[:distances], distance[:], 15)
	nl, nd := literals, distances
	for l.literal[nl-1] == 0 {
		nl--
	}
	for l.distance[nd-1] == 0 {
		nd--
	}
	c.items = items(items(c.items[:0], l.literal[:nl]), l.distance[:nd])

	var freq [19]int32
	for _, it := range c.items {
		freq[it.symbol]++
	}
	var inner [19]uint8
	c.tree.lengths(inner[:], freq[:], 7)
	var code [19]uint16
	codes(code[:], inner[:])
	n := 19
	for n > 4 && inner[headerOrder[n-1]] == 0 {
		n--
	}
	w := bitWriter{out: c.header[:0]}
	w.bits(uint32(nl-257), 5)
	w.bits(uint32(nd-1), 5)
	w.bits(uint32(n-4), 4)
	for _, s := range headerOrder[:n] {
		w.bits(uint32(inner[s]), 3)
	}
	for _, it := range c.items {
		w.bits(uint32(code[it.symbol]), int(inner[it.symbol]))
		w.bits(uint32(it.again), againBits[it.symbol])
	}
	c.headerBits = len(w.out)*8 + w.n
	w.align(0)
	c.header = w.out
}

// is tells whether the header is that in src, from bit start on, of n bits.
func (c *coder) is(src []byte, start, n int) bool {
	if n != c.headerBits {
		return false
	}
	a, b := newBitReader(src, start), newBitReader(c.header, 0)
	for ; n > 0; n -= 32 {
		if k := min(n, 32); a.bits(k) != b.bits(k) {
			return false
		}
	}
	return true
}
