package learn

// candidate is a pair and how frequent it was when it was queued.
type candidate struct {
	count int64
	pair  pair
}

// less tells whether c is merged before d: the more frequent one, and of equally
// frequent ones that of smaller ids.
func (c candidate) less(d candidate) bool {
	if c.count != d.count {
		return c.count > d.count
	}
	return c.pair < d.pair
}

// queue is a heap: each candidate is less than its four children.
type queue []candidate

func (q *queue) push(c candidate) {
	*q = append(*q, c)
	h := *q
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if !c.less(h[parent]) {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = c
}

// replace puts another candidate in the place of the first.
func (q queue) replace(c candidate) {
	i := 0
	for {
		child := 4*i + 1
		if child >= len(q) {
			break
		}
		for j := child + 1; j < min(child+4, 4*i+5, len(q)); j++ {
			if q[j].less(q[child]) {
				child = j
			}
		}
		if !q[child].less(c) {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = c
}

func (q *queue) pop() {
	h := *q
	last := h[len(h)-1]
	*q = h[:len(h)-1]
	if len(*q) > 0 {
		q.replace(last)
	}
}
