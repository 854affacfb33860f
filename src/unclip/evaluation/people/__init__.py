"""What people prefer, asked blind: questions, their answers, and what follows from them."""
