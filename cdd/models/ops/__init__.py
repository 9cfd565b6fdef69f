"""Operations that are computed in another way on some platforms than on others."""
