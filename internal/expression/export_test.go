package expression

// Held is how many expressions are remembered.
func Held() int {
	held.mu.Lock()
	defer held.mu.Unlock()
	return len(held.byText)
}
